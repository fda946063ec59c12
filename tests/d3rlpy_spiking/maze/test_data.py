"""The dataset and its test sets."""

import numpy as np
import pytest
from d3rlpy.constants import ActionSpace

from d3rlpy_spiking.maze import MazeSet, SpikingMazeEnv, maze_dataset, observe
from tests.d3rlpy_spiking.maze.common import small_data

DATA = small_data()


def _pairs(maze_set: MazeSet) -> list[tuple[int, tuple[int, int], tuple[int, int]]]:
    return [(walk.maze, walk.cells[0], walk.goal) for walk in maze_set.walks]


def test_dataset_holds_the_expert_trajectories() -> None:
    info = DATA.dataset.dataset_info
    assert (info.action_space, info.action_size) == (ActionSpace.DISCRETE, 4)
    assert DATA.dataset.transition_count == DATA.train.steps
    assert len(DATA.train.walks) == 6 * 12
    for episode, walk in zip(DATA.dataset.episodes, DATA.train.walks, strict=True):
        maze = DATA.train.mazes[walk.maze]
        assert episode.observations.dtype == np.uint8
        np.testing.assert_array_equal(
            episode.observations, observe(maze, walk.goal, walk.cells[:-1])
        )
        assert episode.actions[:, 0].tolist() == list(walk.actions)
        assert episode.rewards[:, 0].tolist() == [0.0] * (len(walk.actions) - 1) + [1.0]
        assert episode.terminated


def test_returns_to_go_carry_no_distance() -> None:
    batch = DATA.dataset.sample_trajectory_batch(32, length=5)
    assert set(batch.returns_to_go[batch.masks == 1].ravel()) == {1.0}


def test_expert_walks_are_optimal() -> None:
    for maze_set in (DATA.train, DATA.pairs, DATA.mazes):
        for walk in maze_set.walks:
            assert walk.optimal.shape == (len(walk.actions), 4)
            assert walk.optimal[np.arange(len(walk.actions)), walk.actions].all()
            cell = walk.cells[0]
            for action, following in zip(walk.actions, walk.cells[1:], strict=True):
                cell = maze_set.mazes[walk.maze].step(cell, action)
                assert cell == following


def test_pairs_split_uses_no_trained_pair() -> None:
    trained, tested = _pairs(DATA.train), _pairs(DATA.pairs)
    assert len(set(trained)) == len(trained)
    assert not set(trained) & set(tested)
    assert [m.key() for m in DATA.pairs.mazes] == [m.key() for m in DATA.train.mazes]
    assert {walk.maze for walk in DATA.pairs.walks} == set(range(6))


def test_seen_marks_states_of_training_trajectories() -> None:
    states = {(w.maze, w.goal, cell) for w in DATA.train.walks for cell in w.cells[:-1]}
    for walk, seen in zip(DATA.pairs.walks, DATA.pairs.seen, strict=True):
        assert seen.tolist() == [(walk.maze, walk.goal, c) in states for c in walk.cells[:-1]]
    assert 0 < DATA.pairs.seen_steps < DATA.pairs.steps
    assert DATA.mazes.seen_steps == 0


def test_mazes_split_shares_no_maze_and_equals_the_environments() -> None:
    trained = {maze.key() for maze in DATA.train.mazes}
    assert not trained & {maze.key() for maze in DATA.mazes.mazes}
    for split, maze_set in (("train", DATA.train), ("mazes", DATA.mazes)):
        env = SpikingMazeEnv(seed=2, n_mazes=6, n_unseen=3, size=5, split=split)  # type: ignore[arg-type]
        assert [m.key() for m in env.mazes] == [m.key() for m in maze_set.mazes]


def test_one_seed_gives_one_dataset() -> None:
    again, other = small_data(), small_data(seed=3)
    for name in ("train", "pairs", "mazes"):
        one, two = (_pairs(getattr(data, name)) for data in (DATA, again))
        assert one == two
    assert _pairs(other.train) != _pairs(DATA.train)
    assert [w.actions for w in again.mazes.walks] == [w.actions for w in DATA.mazes.walks]


def test_test_sets_are_as_large_as_asked() -> None:
    assert DATA.pairs.steps >= 150
    assert DATA.mazes.steps >= 150


def test_default_sizes() -> None:
    # A tenth of the mazes, else as by default.
    data = maze_dataset(n_mazes=20, n_unseen=5, test_steps=500, tie_break="random")
    assert data.dataset.dataset_info.observation_signature.shape == [(6, 15, 15)]
    assert 6_000 <= data.train.steps <= 10_000
    assert 500 <= data.pairs.steps <= 1000
    assert 500 <= data.mazes.steps <= 1000


def test_refusals() -> None:
    with pytest.raises(ValueError, match="too few start and goal pairs left"):
        small_data(n_mazes=1, n_unseen=1, size=3, test_steps=5000)
    with pytest.raises(ValueError, match="trajectories_per_maze"):
        small_data(trajectories_per_maze=0)
    with pytest.raises(ValueError, match="tie_break"):
        small_data(tie_break="last")
