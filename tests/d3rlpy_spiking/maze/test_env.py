"""The environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from d3rlpy_spiking.maze import ENV_ID, SpikingMazeEnv, demonstrate, optimal_actions, split_mazes
from d3rlpy_spiking.maze.observation import AGENT_PLANE, GOAL_PLANE

SMALL: dict[str, Any] = {"n_mazes": 3, "n_unseen": 2, "size": (4, 5), "seed": 1}


@pytest.mark.parametrize("render_mode", ["rgb_array", "ansi"])
def test_gymnasium_checker(render_mode: str) -> None:
    env = gym.make(ENV_ID, render_mode=render_mode, **SMALL).unwrapped
    check_env(env)


def test_observation_holds_maze_goal_and_agent_only() -> None:
    env = SpikingMazeEnv(**SMALL)
    observation, info = env.reset(options={"maze": 2, "start": (0, 1), "goal": (3, 4)})
    assert info == {"maze": 2, "start": (0, 1), "goal": (3, 4), "shortest": info["shortest"]}
    np.testing.assert_array_equal(observation[:4], env.mazes[2].passages)
    for plane, cell in ((GOAL_PLANE, (3, 4)), (AGENT_PLANE, (0, 1))):
        assert np.argwhere(observation[plane]).tolist() == [list(cell)]
        assert observation[plane].sum() == 1
    assert observation.shape == (6, 4, 5)


def test_expert_reaches_the_goal_in_the_shortest_length() -> None:
    env = SpikingMazeEnv(**SMALL)
    _, info = env.reset(seed=3)
    cells, actions = demonstrate(env.maze, optimal_actions(env.maze, info["goal"]), info["start"])
    assert len(actions) == info["shortest"]
    for action, cell in zip(actions, cells[1:], strict=True):
        observation, reward, terminated, truncated, _ = env.step(np.int64(action))
        assert observation[(AGENT_PLANE, *cell)] == 1
        assert reward == float(terminated) == float(cell == info["goal"])
        assert not truncated
    assert terminated


def test_walls_hold_and_episodes_are_truncated() -> None:
    env = SpikingMazeEnv(max_steps=3, **SMALL)
    first, _ = env.reset(options={"maze": 0, "start": (0, 0), "goal": (3, 4)})
    ends = []
    for _ in range(3):
        observation, reward, terminated, truncated, _ = env.step(np.int64(0))
        np.testing.assert_array_equal(observation, first)
        ends.append((reward, terminated, truncated))
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]
    assert SpikingMazeEnv(**SMALL).max_steps == 20


def test_splits_share_no_maze_and_seeds_repeat() -> None:
    train = {maze.key() for maze in SpikingMazeEnv(**SMALL).mazes}
    unseen = {maze.key() for maze in SpikingMazeEnv(split="mazes", **SMALL).mazes}
    assert (len(train), len(unseen)) == (3, 2)
    assert not train & unseen
    assert train == {maze.key() for maze in split_mazes("train", **SMALL)}


def test_draws_follow_the_reset_seed() -> None:
    env = SpikingMazeEnv(**SMALL)
    infos = [env.reset(seed=seed)[1] for seed in (1, 1, 2, 3, 4)]
    assert infos[0] == infos[1]
    assert len({(i["maze"], i["start"], i["goal"]) for i in infos}) == 4
    for _ in range(50):
        _, info = env.reset(options={"goal": (0, 0)})
        assert info["goal"] == (0, 0) != info["start"]


def test_pictures() -> None:
    env = SpikingMazeEnv(render_mode="rgb_array", n_mazes=1, n_unseen=1, size=(3, 4))
    env.reset(options={"maze": 0, "start": (0, 0), "goal": (2, 3)})
    image = env.render()
    assert image.shape == (7 * 8, 9 * 8, 3)
    assert image.dtype == np.uint8
    # Start, goal, floor and wall; the agent joins once it has moved, the path between the two.
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 4
    env.step(np.int64(1 if env.maze.passages[1, 0, 0] else 2))
    assert len(np.unique(env.render().reshape(-1, 3), axis=0)) == 6
    env.render_mode = "ansi"
    text = env.render()
    assert [text.count(letter) for letter in "SGA."] == [1, 1, 1, 1]
    assert [len(line) for line in text.splitlines()] == [9] * 7
    env.render_mode = None
    assert env.render() is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        SpikingMazeEnv(split="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="render_mode"):
        SpikingMazeEnv(render_mode="human", **SMALL)
    env = SpikingMazeEnv(**SMALL)
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.int64(0))
    for options, message in (
        ({"cell": (0, 0)}, "maze, start and goal"),
        ({"maze": 3}, r"options\['maze'\]"),
        ({"goal": (4, 0)}, r"options\['goal'\]"),
        ({"start": (0, 0), "goal": (0, 0)}, "must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be in 0 to 3"):
        env.step(np.int64(4))
