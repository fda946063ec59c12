"""Episodes to replay buffers, in d3rlpy's own classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import EpisodeBase, EpisodeGenerator, InfiniteBuffer, ReplayBuffer
from numpy.typing import NDArray

from policies.config import check_count


def stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that observations of `dtype` are kept in: uint8 for images, else float32."""
    return np.dtype(np.uint8 if dtype == np.uint8 else np.float32)


def make_buffer(
    episodes: Sequence[EpisodeBase],
    action_space: ActionSpace,
    action_size: int,
    like: ReplayBuffer | None = None,
) -> ReplayBuffer:
    """A ReplayBuffer of these episodes.

    Args:
        episodes: at least one of them with a transition.
        action_space: continuous or discrete; d3rlpy would guess it from the first episode's values.
        action_size: action dimensions, or number of actions; d3rlpy would take the largest seen.
        like: buffer whose transition picker and trajectory slicer to keep.

    Raises:
        ValueError: if no episode holds a transition.
    """
    if not any(episode.transition_count for episode in episodes):
        raise ValueError(
            f"the dataset would be empty: none of its {len(episodes)} episodes holds a transition "
            "(an episode of one step that ends in a timeout has none); collect longer episodes"
        )
    return ReplayBuffer(
        InfiniteBuffer(),
        episodes=episodes,
        transition_picker=None if like is None else like.transition_picker,
        trajectory_slicer=None if like is None else like.trajectory_slicer,
        action_space=action_space,
        action_size=action_size,
    )


def split_episodes(
    observations: NDArray[Any],
    actions: NDArray[Any],
    rewards: NDArray[Any],
    terminals: NDArray[np.bool_],
    timeouts: NDArray[np.bool_],
) -> Sequence[EpisodeBase]:
    """Cut arrays of N steps after each terminal or timeout; steps after the last are a timeout.

    Args:
        observations: [N, ...].
        actions: [N, A].
        rewards: [N] or [N, 1].
        terminals: [N].
        timeouts: [N]; nowhere true together with terminals.
    """
    timeouts = timeouts.copy()
    timeouts[-1] |= not terminals[-1]  # d3rlpy would drop an open last episode
    generator = EpisodeGenerator(observations, actions, rewards, terminals, timeouts)
    episodes: Sequence[EpisodeBase] = generator()
    return episodes


def drop_short_episodes(dataset: ReplayBuffer, minimum: int = 2) -> ReplayBuffer:
    """A new buffer with the episodes of at least `minimum` steps; `dataset` stays as it is.

    Raises:
        ValueError: if minimum < 1, or no episode is that long.
    """
    check_count("minimum", minimum)
    episodes = [episode for episode in dataset.episodes if len(episode) >= minimum]
    if not episodes:
        raise ValueError(
            f"none of the {len(dataset.episodes)} episodes has at least {minimum} steps; "
            "lower minimum or collect longer episodes"
        )
    info = dataset.dataset_info
    return make_buffer(episodes, info.action_space, info.action_size, like=dataset)
