"""Datasets and settings that cannot train, named before training starts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import DatasetInfo, EpisodeBase, ReplayBufferBase
from d3rlpy.preprocessing import ActionScaler, MinMaxActionScaler
from numpy.typing import NDArray

from policies.config import check_count

# How far rounding to float32 may push an action out of [-1, 1].
ACTION_SLACK = 1e-5
# d3rlpy fits it to the dataset when training starts, so any finite range will do.
ANY_RANGE: ActionScaler = MinMaxActionScaler()


def check_dataset(
    dataset: ReplayBufferBase, *, discrete: bool, action_scaler: ActionScaler | None = None
) -> None:
    """Raise unless d3rlpy can train on the dataset.

    Episodes of one step pass if they end in a terminal: d3rlpy 2.8.1 samples them, pads them and
    fits its scalers to them like others. Those that end in a timeout hold no transition.

    Args:
        dataset: what fit is given.
        discrete: whether the algorithm is for discrete actions.
        action_scaler: the algorithm's; the actions that it scales must lie in [-1, 1]. One that
            d3rlpy has yet to fit to the dataset passes.

    Raises:
        TypeError: if dataset is no ReplayBuffer.
        ValueError: if it is empty, has the other kind of actions, an episode whose arrays do not
            fit each other, NaN or infinity, or actions that are out of range. The message names
            the first episode and step, both counted from 0.
    """
    if not isinstance(dataset, ReplayBufferBase):
        raise TypeError(
            f"dataset must be a d3rlpy ReplayBuffer, got {type(dataset).__name__}; load_npz, "
            "load_minari and collect_from_sb3 of d3rlpy_spiking.datasets make one"
        )
    _check_action_space(dataset.dataset_info, discrete)
    episodes = dataset.episodes
    if not episodes:
        raise ValueError(
            "the dataset is empty: it holds no episode with a transition (an episode of one step "
            "that ends in a timeout has none); collect or load episodes of 2 steps or more"
        )
    _check_episodes(episodes, dataset.dataset_info)
    for name in ("observations", "actions", "rewards"):
        _check_finite(name, episodes)
    if discrete:
        _check_discrete_actions(episodes, dataset.dataset_info.action_size)
    elif action_scaler is None or action_scaler.built:
        _check_action_range(episodes, action_scaler)


def check_fit(n_steps: int, n_steps_per_epoch: int) -> None:
    """Raise unless fit would train at least one epoch.

    Raises:
        TypeError: if either is no integer.
        ValueError: if either is less than 1, or n_steps less than n_steps_per_epoch: d3rlpy would
            return without having trained.
    """
    check_count("n_steps", n_steps)
    check_count("n_steps_per_epoch", n_steps_per_epoch)
    if n_steps < n_steps_per_epoch:
        raise ValueError(
            f"n_steps ({n_steps}) must be at least n_steps_per_epoch ({n_steps_per_epoch}): d3rlpy "
            "trains whole epochs only, so nothing would be trained; pass "
            f"n_steps_per_epoch={n_steps}, or raise n_steps"
        )


def _check_action_space(info: DatasetInfo, discrete: bool) -> None:
    wanted = ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS
    if info.action_space == wanted:
        return
    name, other = wanted.name.lower(), info.action_space.name.lower()
    raise ValueError(
        f"the algorithm needs {name} actions, but the dataset has {other} ones; take the algorithm "
        f"for {other} actions, or, if d3rlpy guessed wrong (it takes actions for discrete when all "
        f"their values are whole numbers), build the dataset with action_space=ActionSpace."
        f"{wanted.name}"
    )


def _parts(observations: Any) -> Sequence[NDArray[Any]]:
    """The arrays of an episode's observations: d3rlpy allows several."""
    return observations if isinstance(observations, (list, tuple)) else (observations,)


def _check_episodes(episodes: Sequence[EpisodeBase], info: DatasetInfo) -> None:
    """Raise unless the arrays of each episode fit each other and the first episode's."""
    width = 1 if info.action_space == ActionSpace.DISCRETE else info.action_size
    shapes = [part.shape[1:] for part in _parts(episodes[0].observations)]
    for i, episode in enumerate(episodes):
        steps = len(episode)
        got = [part.shape for part in _parts(episode.observations)]
        wanted = [(steps, *shape) for shape in shapes]
        got += [episode.actions.shape, episode.rewards.shape]
        wanted += [(steps, width), (steps, 1)]
        if got != wanted:
            raise ValueError(
                f"episode {i} has {steps} actions, so its observations, actions and rewards must "
                f"have shapes {wanted}, got {got}; an episode holds one observation an action (not "
                "the one after its last step), and all episodes have the same shapes"
            )
        if episode.transition_count < 1:
            raise ValueError(
                f"episode {i} holds no transition: its only step ends in a timeout, so the next "
                "observation is unknown and d3rlpy's pickers fail on it; use "
                "drop_short_episodes(dataset) of d3rlpy_spiking.datasets"
            )


def _check_finite(name: str, episodes: Sequence[EpisodeBase]) -> None:
    for i, episode in enumerate(episodes):
        for values in _parts(getattr(episode, name)):
            if values.dtype.kind in "iub":
                continue
            if values.dtype.kind != "f":
                raise ValueError(f"{name} must be numbers, got {values.dtype} in episode {i}")
            finite = np.isfinite(values)
            if not finite.all():
                step = int(np.argwhere(~finite)[0, 0])
                raise ValueError(
                    f"{name} must be finite, got {values[~finite][0]} in episode {i}, step {step} "
                    f"({int((~finite).sum())} of its {values.size} values); repair or drop the "
                    "episode"
                )


_SCALED = {False: "when there is no action scaler", True: "after the config's action scaler"}


def _check_action_range(episodes: Sequence[EpisodeBase], scaler: ActionScaler | None) -> None:
    for i, episode in enumerate(episodes):
        scaled = episode.actions if scaler is None else scaler.transform_numpy(episode.actions)
        outside = ~(np.abs(scaled) <= 1.0 + ACTION_SLACK)
        if outside.any():
            step, dimension = np.argwhere(outside)[0]
            raise ValueError(
                f"continuous actions must lie in [-1, 1] {_SCALED[scaler is not None]}, got "
                f"{episode.actions[step, dimension]} in episode {i}, step {step}, dimension "
                f"{dimension}; set action_scaler=MinMaxActionScaler(minimum=..., maximum=...) in "
                "the config, or action_scaler(env.action_space) of d3rlpy_spiking.datasets"
            )


def _check_discrete_actions(episodes: Sequence[EpisodeBase], action_size: int) -> None:
    for i, episode in enumerate(episodes):
        actions = episode.actions
        wrong = (actions < 0) | (actions >= action_size) | (actions % 1 != 0)
        if wrong.any():
            step = int(np.argwhere(wrong)[0, 0])
            raise ValueError(
                f"discrete actions must be integers from 0 to {action_size - 1}, got "
                f"{actions[step, 0]} in episode {i}, step {step}; number the actions from 0 and "
                "build the dataset with action_size=the number of actions"
            )
