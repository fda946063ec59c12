"""An environment of HalfCheetah's sizes without physics: its own time is next to nothing."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

OBS, ACTIONS, EPISODE = 17, 6, 1000
Array = NDArray[np.float64]


class RandomControl(gym.Env[Array, NDArray[np.float32]]):
    """Normally distributed observations [17], actions [6] in [-1, 1], 1,000 steps an episode."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.standard_normal(OBS), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step; the reward asks for small actions."""
        self.steps += 1
        reward = -float(np.square(action).sum())
        observation = self.np_random.standard_normal(OBS)
        return observation, reward, False, self.steps >= EPISODE, {}
