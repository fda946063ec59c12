"""Small environments with unusual spaces."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class TinyEnv(gym.Env[Any, Any]):
    """Random observations of any space; the reward asks for small actions; 20 steps an episode."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, dtype=self.action_space.dtype)), action
        self.steps += 1
        reward = -float(np.abs(action).mean())
        return self.observation_space.sample(), reward, False, self.steps >= 20, {}


BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)

OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "unbounded": BOX,
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "float64": spaces.Box(-5.0, 5.0, (4,), np.float64),
    "scalar": spaces.Box(-1.0, 1.0, (1,), np.float32),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(6),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "unit": ACTION,
    "shifted": spaces.Box(np.array([2.0, -7.0], np.float32), np.array([3.0, 50.0], np.float32)),
    "matrix": spaces.Box(-2.0, 2.0, (2, 2), np.float32),
}
DICT = spaces.Dict({"a": BOX, "b": spaces.Box(0.0, 1.0, (2,), np.float32)})
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


class FaultyEnv(TinyEnv):
    """Observations turn into `bad` at step `at` of the first episode."""

    def __init__(self, bad: float, at: int) -> None:
        super().__init__(BOX, ACTION)
        self.bad, self.at = bad, at

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        if self.steps == self.at:
            obs[1] = self.bad
        return (obs, *rest)
