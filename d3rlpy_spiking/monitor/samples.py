"""Contexts and observations from a dataset, evenly spread over it: no random numbers are used."""

from typing import Any

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import EpisodeBase, ReplayBufferBase, TrajectoryMiniBatch, TransitionMiniBatch
from d3rlpy.torch_utility import TorchMiniBatch, TorchTrajectoryMiniBatch
from numpy.typing import NDArray
from torch import Tensor


def contexts(algo: Any, data: Any, count: int) -> TorchTrajectoryMiniBatch:
    """Contexts for a transformer algorithm, scaled as it scales them.

    Args:
        algo: a built transformer algorithm.
        data: a ReplayBuffer; or a batch of contexts, NumPy's, or scaled and in tensors.
        count: contexts to take from a ReplayBuffer.

    Raises:
        TypeError: if data is none of these.
        ValueError: if a scaler has not been fitted, or the dataset is empty or does not fit.
    """
    if isinstance(data, TorchTrajectoryMiniBatch):
        return data
    scalers = _scalers(algo)
    if isinstance(data, ReplayBufferBase):
        check_fits(algo, data)
        length = algo.config.context_size
        picked = [
            data.trajectory_slicer(episode, step, length) for episode, step in _spread(data, count)
        ]
        data = TrajectoryMiniBatch.from_partial_trajectories(picked)
    if not isinstance(data, TrajectoryMiniBatch):
        raise TypeError(
            "data must be a ReplayBuffer or a batch of trajectories for a transformer algorithm, "
            f"got {type(data).__name__}"
        )
    return TorchTrajectoryMiniBatch.from_batch(data, algo._device, **scalers)


def steps(algo: Any, data: Any, count: int) -> tuple[Tensor, Tensor]:
    """Observations [B, n] and actions [B, ...] for a Q-learning algorithm, scaled as it does.

    Args:
        algo: a built Q-learning algorithm.
        data: a ReplayBuffer; or a batch of transitions, NumPy's, or scaled and in tensors.
        count: steps to take from a ReplayBuffer.

    Raises:
        TypeError: if data is none of these.
        ValueError: if a scaler has not been fitted, or the dataset is empty or does not fit.
    """
    if isinstance(data, TorchMiniBatch):
        return _vector(data.observations), data.actions
    if isinstance(data, ReplayBufferBase):
        check_fits(algo, data)
        seen, done = _stacked(_spread(data, count))
    elif isinstance(data, TransitionMiniBatch):
        seen, done = np.asarray(data.observations), np.asarray(data.actions)
    else:
        raise TypeError(
            "data must be a ReplayBuffer or a batch of transitions for a Q-learning algorithm, got "
            f"{type(data).__name__}"
        )
    return _scaled(algo, seen, done)


def episode_start(algo: Any, data: ReplayBufferBase, count: int) -> tuple[Tensor, Tensor]:
    """As `steps`, the first ones of the dataset's first episode in their order."""
    episode = data.episodes[0]
    return _scaled(algo, *_stacked([(episode, i) for i in range(min(count, episode.size()))]))


def _stacked(places: list[tuple[EpisodeBase, int]]) -> tuple[NDArray[Any], NDArray[Any]]:
    seen = np.stack([np.asarray(episode.observations[step]) for episode, step in places])
    return seen, np.stack([np.asarray(episode.actions[step]) for episode, step in places])


def _scaled(algo: Any, seen: NDArray[Any], done: NDArray[Any]) -> tuple[Tensor, Tensor]:
    scalers = _scalers(algo)
    observations = torch.as_tensor(seen, dtype=torch.float32, device=algo._device)
    actions = torch.as_tensor(done, dtype=torch.float32, device=algo._device)
    if scalers["observation_scaler"] is not None:
        observations = scalers["observation_scaler"].transform(observations)
    if scalers["action_scaler"] is not None:
        actions = scalers["action_scaler"].transform(actions)
    return observations, actions


def _scalers(algo: Any) -> dict[str, Any]:
    names = ("observation_scaler", "action_scaler", "reward_scaler")
    scalers = {name: getattr(algo.config, name) for name in names}
    for name, scaler in scalers.items():
        if not getattr(scaler, "built", True):
            raise ValueError(
                f"{name} of the algorithm has not seen data yet; call fit first, or build it with "
                "its own fit_with_... method"
            )
    return scalers


def check_fits(algo: Any, data: ReplayBufferBase) -> None:
    """Raise ValueError unless a dataset has episodes, in shapes that a built algorithm takes."""
    if not data.episodes:
        raise ValueError("the dataset holds no episode yet: there is nothing to look at")
    shape = tuple(data.episodes[0].observation_signature.shape)
    wanted = algo.impl.observation_shape
    wanted = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,)
    got: Any = tuple(shape[0]) if len(shape) == 1 else tuple(tuple(part) for part in shape)
    if got != tuple(tuple(p) if isinstance(p, list | tuple) else p for p in wanted):
        raise ValueError(
            f"the dataset has observations of shape {got}, the algorithm is for {wanted}; pass the "
            "dataset that it is trained on"
        )
    size, ours = data.dataset_info.action_size, algo.impl.action_size
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    if size > ours if discrete else size != ours:
        raise ValueError(
            f"the dataset has {size} {'actions' if discrete else 'dimensions of actions'}, the "
            f"algorithm is for {ours}; pass the dataset that it is trained on"
        )
    if hasattr(algo, "_check_episode_lengths"):
        algo._check_episode_lengths(data)


def _spread(data: ReplayBufferBase, count: int) -> list[tuple[EpisodeBase, int]]:
    """Episodes and steps in them, evenly spread over all steps."""
    ends = np.cumsum([episode.size() for episode in data.episodes])
    places = np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).round().astype(int)
    numbers = np.searchsorted(ends, places, side="right")
    return [
        (data.episodes[n], int(place - (ends[n - 1] if n else 0)))
        for n, place in zip(numbers, places, strict=True)
    ]


def _vector(observations: Any) -> Tensor:
    if not isinstance(observations, Tensor):
        raise TypeError(f"observations must be one tensor, got {type(observations).__name__}")
    return observations
