"""Datasets from Minari, normalized scores, action scalers."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from d3rlpy.constants import ActionSpace
from gymnasium import spaces

from d3rlpy_spiking.datasets import action_scaler, d4rl_score, load_minari
from tests.common import run_python


class FakeMinari:
    """What `minari.MinariDataset` offers; observation k of episode e is [e, k], action k is k."""

    def __init__(self, action_space: spaces.Space[Any], dtype: Any = np.float64) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.spec = SimpleNamespace(dataset_id="test/count-v0")
        ends = [(3, True, False), (1, True, False), (4, False, True), (5, True, True), (2, 0, 0)]
        self.episodes = []
        for e, (steps, terminated, truncated) in enumerate(ends):
            last = np.arange(steps) == steps - 1
            self.episodes.append(
                SimpleNamespace(
                    id=e,
                    observations=np.stack([np.full(steps + 1, e), np.arange(steps + 1.0)], axis=1),
                    actions=np.arange(steps, dtype=dtype).reshape(-1, *action_space.shape),  # type: ignore[misc]
                    rewards=10.0 + np.arange(steps),
                    terminations=last & bool(terminated),
                    truncations=last & bool(truncated),
                    infos={},
                )
            )

    def iterate_episodes(self) -> Iterator[Any]:
        return iter(self.episodes)


@pytest.mark.parametrize("discrete", [False, True])
def test_minari_actions_stay_with_their_observations(discrete: bool) -> None:
    space = spaces.Discrete(9) if discrete else spaces.Box(0.0, 9.0, (1,), np.float32)
    buffer = load_minari(FakeMinari(space, np.int32 if discrete else np.float64))
    assert [(len(e), e.terminated) for e in buffer.episodes] == [
        (3, True),
        (1, True),
        (4, False),
        (5, True),
        (2, False),
    ]
    for e, episode in enumerate(buffer.episodes):
        np.testing.assert_array_equal(episode.observations[:, 0], e)
        np.testing.assert_array_equal(episode.observations[:, 1], episode.actions[:, 0])
        np.testing.assert_array_equal(episode.rewards, 10.0 + episode.actions)
    info = buffer.dataset_info
    assert info.action_space == (ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS)
    assert info.action_size == (9 if discrete else 1)
    assert buffer.episodes[0].observations.dtype == np.float32
    assert buffer.episodes[0].actions.dtype == (np.int64 if discrete else np.float32)


def test_minari_faults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Discrete(9)
    data = FakeMinari(space)
    data.episodes[3].observations = data.episodes[3].observations[:-1]
    with pytest.raises(ValueError, match="episode 3 has 5 actions, so it must have 6 observations"):
        load_minari(data)
    data = FakeMinari(space)
    data.episodes[2].rewards = data.episodes[2].rewards[:-1]
    with pytest.raises(ValueError, match="episode 2 has 4 actions, so it must have 4 rewards"):
        load_minari(data)
    data = FakeMinari(space)
    data.episodes[1].observations = {"observation": data.episodes[1].observations}
    with pytest.raises(ValueError, match="one array an episode, got dict in episode 1"):
        load_minari(data)
    data = FakeMinari(space)
    data.episodes[2].rewards[1] = np.nan
    with pytest.raises(ValueError, match="rewards must be finite, got nan in episode 2, step 1"):
        load_minari(data)
    data = FakeMinari(space)
    data.action_space = spaces.MultiDiscrete([3, 3])
    with pytest.raises(ValueError, match="action space must be a Box"):
        load_minari(data)
    with pytest.raises(TypeError, match="must be a Minari dataset or the id of one, got list"):
        load_minari([])
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match="pip install minari"):
        load_minari("mujoco/hopper/expert-v0")


def test_minari_ids_are_loaded_by_minari(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(dataset_id: str, download: bool) -> FakeMinari:
        asked.append((dataset_id, download))
        return FakeMinari(spaces.Discrete(9))

    minari = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "minari", minari)
    assert load_minari("test/count-v0").size() == 5
    load_minari("test/count-v0", download=True)
    assert asked == [("test/count-v0", False), ("test/count-v0", True)]


@pytest.mark.parametrize(
    ("env_id", "random", "expert"),
    [
        ("hopper-medium-expert-v2", -20.272305, 3234.3),
        ("Hopper-v4", -20.272305, 3234.3),
        ("HalfCheetah-v5", -280.178953, 12135.0),
        ("walker2d-medium-replay-v2", 1.629008, 4592.3),
        ("Ant-v4", -325.6, 3879.7),
        ("mujoco/hopper/expert-v0", -20.272305, 3234.3),
        ("D4RL/hopper/medium-v2", -20.272305, 3234.3),
        ("antmaze-umaze-v2", 0.0, 1.0),
        ("antmaze-large-diverse-v0", 0.0, 1.0),
        ("kitchen-complete-v0", 0.0, 4.0),
        ("maze2d-umaze-v1", 23.85, 161.86),
        ("maze2d-medium-v1", 13.13, 277.39),
        ("maze2d-large-v1", 6.7, 273.99),
        ("pen-human-v1", 96.262799, 3076.8331017826877),
        ("D4RL/hammer/cloned-v2", -274.856578, 12794.134825156867),
        ("door-expert-v0", -56.512833, 2880.5693087298737),
        ("relocate", -6.425911, 4233.877797728884),
    ],
)
def test_d4rl_score(env_id: str, random: float, expert: float) -> None:
    assert d4rl_score(env_id, random) == 0.0
    assert d4rl_score(env_id, expert) == pytest.approx(100.0)
    assert d4rl_score(env_id, 2 * expert - random) == pytest.approx(200.0)


@pytest.mark.parametrize(
    "env_id",
    ["Pendulum-v1", "hopper-bullet-medium-v0", "maze2d-umaze-dense-v1", "HopperBulletEnv-v0", ""],
)
def test_d4rl_score_refuses_other_environments(env_id: str) -> None:
    with pytest.raises(ValueError, match=r"\['halfcheetah', 'hopper', .*'maze2d-large'\]"):
        d4rl_score(env_id, 1.0)


def test_action_scaler() -> None:
    assert action_scaler(spaces.Box(-1.0, 1.0, (2,), np.float32)) is None
    assert action_scaler(spaces.Discrete(3)) is None
    low, high = np.array([-0.4, 0.0], np.float32), np.array([0.4, 2.0], np.float32)
    scaler = action_scaler(spaces.Box(low, high))
    assert scaler is not None
    np.testing.assert_array_equal(scaler.minimum, low)
    np.testing.assert_array_equal(scaler.maximum, high)
    with pytest.raises(ValueError, match=r"dimension 1 is bounded by \[0.0, inf\]"):
        action_scaler(spaces.Box(low, np.array([0.4, np.inf], np.float32)))
    with pytest.raises(ValueError, match="action space must be a Box with one axis"):
        action_scaler(spaces.MultiBinary(2))


def test_import_needs_neither_stable_baselines3_nor_minari() -> None:
    code = """
import sys
for name in ("stable_baselines3", "sb3_contrib", "sb3_spiking", "minari"):
    sys.modules[name] = None
import d3rlpy_spiking.datasets, d3rlpy_spiking.dataset_checks
print(d3rlpy_spiking.datasets.d4rl_score("hopper", 3234.3))
"""
    assert run_python(code).splitlines()[-1] == "100.0"
