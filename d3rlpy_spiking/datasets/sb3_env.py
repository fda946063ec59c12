"""Environments as Stable-Baselines3 agents need them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from d3rlpy_spiking.datasets.spaces import describe_action_space

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize


def as_venv(env: Any) -> "VecEnv":
    """A VecEnv of an environment or of the id of one; a VecEnv as it is.

    Raises:
        TypeError: if env is none of these.
    """
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    if isinstance(env, VecEnv):
        return env
    single = gymnasium.make(env) if isinstance(env, str) else env
    if not isinstance(single, gymnasium.Env):
        raise TypeError(
            "env must be a Gymnasium environment, its id, or a Stable-Baselines3 VecEnv, got "
            f"{type(env).__name__}"
        )
    return DummyVecEnv([lambda: single])


def fit_to_model(venv: "VecEnv", model: "BaseAlgorithm") -> "VecEnv":
    """The environment as the agent sees it: images with channels first.

    Raises:
        ValueError: if its spaces are not the agent's, or none that d3rlpy trains on, or the agent
            needs a VecNormalize that is missing.
    """
    from stable_baselines3.common.preprocessing import (
        is_image_space,
        is_image_space_channels_first,
    )
    from stable_baselines3.common.vec_env import VecTransposeImage

    space, actions = spaces_of(venv)
    if not isinstance(space, Box) or not space.shape:
        raise ValueError(
            f"the observation space must be a Box with at least one axis, got {space}; d3rlpy "
            "trains on one array an observation: wrap the environment, for instance in gymnasium's "
            "FlattenObservation, and train the agent on that"
        )
    describe_action_space(actions)
    normalizer = normalizer_of(venv)
    normalized = normalizer is not None and normalizer.norm_obs
    if not normalized and is_image_space(space) and not is_image_space_channels_first(space):
        venv = VecTransposeImage(venv)
        space, _ = spaces_of(venv)
    if not _same_observations(model.observation_space, space, normalized):
        raise _mismatch("observation space", model.observation_space, space)
    if not _same_actions(model.action_space, actions):
        raise _mismatch("action space", model.action_space, actions)
    trained = getattr(model, "get_vec_normalize_env", lambda: None)()
    if trained is not None and trained.norm_obs and not normalized:
        raise ValueError(
            "the agent was trained behind VecNormalize and env is not: it would see observations "
            "of another scale; pass VecNormalize.load(path, venv) or model.get_env()"
        )
    return venv


def spaces_of(venv: "VecEnv") -> tuple[Any, Any]:
    """Spaces of observations and actions, from below VecNormalize.

    A VecNormalize from a file keeps the spaces it was saved with, in old files those of a package
    that Gymnasium has replaced.
    """
    from stable_baselines3.common.vec_env import VecNormalize

    while isinstance(venv, VecNormalize):
        venv = venv.venv
    return venv.observation_space, venv.action_space


def _mismatch(name: str, theirs: Any, ours: Any) -> ValueError:
    return ValueError(
        f"the agent and env must have the same {name}, but the agent has {theirs} and env {ours}; "
        "pass the environment, with its wrappers, that the agent was trained in"
    )


def _same_observations(theirs: Any, ours: Box, normalized: bool) -> bool:
    if not isinstance(theirs, Box) or theirs.shape != ours.shape:
        return False
    # float32 and float64 serve an agent alike, integers and real numbers do not.
    return normalized or bool(np.dtype(theirs.dtype).kind == np.dtype(ours.dtype).kind)


def _same_actions(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, Discrete):
        return bool(theirs == ours)
    return (
        isinstance(theirs, Box)
        and theirs.shape == ours.shape
        and np.allclose(theirs.low, ours.low)
        and np.allclose(theirs.high, ours.high)
    )


def normalizer_of(venv: "VecEnv") -> "VecNormalize | None":
    """The VecNormalize among the wrappers of venv."""
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    return unwrap_vec_normalize(venv)


@contextmanager
def seeded(seed: int | None, venv: "VecEnv", model: "BaseAlgorithm") -> Iterator[None]:
    """Seed what a rollout draws from; give the global generators their state back."""
    if seed is None:
        yield
        return
    venv.seed(seed)
    model.action_space.seed(seed)
    device = torch.device(model.device)
    numpy_state = np.random.get_state()  # noqa: NPY002  # DQN explores with it
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
