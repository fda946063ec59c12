"""Episodes of `evaluate --env`, with an algorithm that only writes down what it is told."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from d3rlpy.algos import GreedyTransformerActionSampler
from d3rlpy.constants import ActionSpace
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from d3rlpy_spiking.cli import environments
from d3rlpy_spiking.cli.environments import Episodes


class Corridor(gymnasium.Env[NDArray[np.float32], int]):
    """Three steps; the reward is the step's number plus the episode's seed; one array for all."""

    observation_space = Box(-100, 100, (1,))
    action_space = Discrete(2)  # type: ignore[assignment]  # gymnasium's NumPy integers

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.seed, self.steps = seed, 0
        self.array = np.zeros(1, np.float32)
        return self.array, {}

    def step(self, action: int) -> Any:
        self.steps += 1
        self.array[0] = self.steps
        return self.array, float(self.steps + self.seed), self.steps == 3, False, {}


class Actor:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def reset(self) -> None:
        self.calls.append("reset")

    def predict(self, obs: NDArray[np.float32], reward: float) -> int:
        self.calls.append((obs, reward))
        return 0


class Algo:
    """A discrete algorithm whose wrapper is an Actor."""

    def __init__(self) -> None:
        self.actor = Actor()
        self.asked: tuple[float, Any] | None = None

    def get_action_type(self) -> ActionSpace:
        return ActionSpace.DISCRETE

    def as_stateful_wrapper(self, target_return: float, sampler: Any) -> Actor:
        self.asked = (target_return, sampler)
        return self.actor


def test_episodes_are_reset_seeded_and_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "make_env", lambda name: Corridor())
    algo = Algo()
    result = Episodes("Corridor", 7.0, 2, seed=10).run(algo)
    assert algo.asked is not None
    assert algo.asked[0] == 7.0
    assert isinstance(algo.asked[1], GreedyTransformerActionSampler)
    assert result["returns"] == [36.0, 39.0]  # seeds 10 and 11, steps 1 + 2 + 3
    assert (result["mean"], result["sd"]) == (37.5, 1.5)
    assert [call for call in algo.actor.calls if call == "reset"] == ["reset", "reset"]
    assert algo.actor.calls[0] == algo.actor.calls[4] == "reset"
    first, second = algo.actor.calls[1:4], algo.actor.calls[5:8]
    assert [reward for _, reward in first] == [0.0, 11.0, 12.0]
    assert [reward for _, reward in second] == [0.0, 12.0, 13.0]
    # Each observation is its own, though the environment has one array.
    assert [float(obs[0]) for obs, _ in first] == [0.0, 1.0, 2.0]
