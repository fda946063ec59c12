"""Plays a saved policy in a Gymnasium environment, without Stable-Baselines3's wrappers."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv

from policies.selftest import OPENING, Played, Shipped, SkippedError
from sb3_spiking.saved.loading import load


def play(shipped: Shipped, path: Path, seeds: Iterable[int]) -> list[Played]:
    """The episode of each seed; see `policies.selftest.check.Play`."""
    env = open_env(shipped.env, shipped.env_kwargs)
    try:
        policy = load(path, shipped.algorithm).policy
        return [play_episode(policy, env, seed) for seed in seeds]
    finally:
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's


def open_env(name: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """The environment of an id.

    Raises:
        SkippedError: if it, or a package that it needs, is missing.
    """
    try:
        return gym.make(name, **kwargs)
    except (DependencyNotInstalled, UnregisteredEnv) as error:
        raise SkippedError(str(error)) from error


def play_episode(
    policy: Any, env: gym.Env[Any, Any], seed: int, after: Callable[[], bool] = lambda: True
) -> Played:
    """An episode with deterministic actions.

    Args:
        policy: of Stable-Baselines3.
        env: an environment with a limit of steps.
        seed: of its reset.
        after: called after the reset and after each step; False ends the episode early.
    """
    obs, _ = env.reset(seed=seed)
    states, start, total = None, np.ones(1, bool), 0.0
    opening: list[tuple[float, ...]] = []
    while after():
        action, states = policy.predict(obs, state=states, episode_start=start, deterministic=True)
        if len(opening) < OPENING:
            opening.append(tuple(np.ravel(action).tolist()))
        obs, reward, terminated, truncated, _ = env.step(action)
        start = np.zeros(1, bool)
        total += float(reward)
        if terminated or truncated:
            after()
            break
    return Played(total, tuple(opening))
