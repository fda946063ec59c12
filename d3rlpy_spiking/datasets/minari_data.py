"""Minari datasets as replay buffers."""

from typing import Any

import numpy as np
from d3rlpy.dataset import Episode, ReplayBuffer

from d3rlpy_spiking.dataset_checks import ANY_RANGE, check_dataset
from d3rlpy_spiking.datasets.episodes import make_buffer, stored_dtype
from d3rlpy_spiking.datasets.spaces import NAMES, describe_action_space


def load_minari(dataset: Any, *, download: bool = False) -> ReplayBuffer:
    """Turn a Minari dataset into a replay buffer, step for step.

    A Minari episode of T actions has T + 1 observations. The last one, in which no action was
    taken, is left out, so that each action stays with the observation it answered. (d3rlpy 2.8.1's
    own `get_minari` keeps it, and shifts every episode after the first.) An episode whose last step
    is both terminated and truncated ends in a terminal.

    Args:
        dataset: id of a dataset ("mujoco/hopper/expert-v0"), or a loaded `minari.MinariDataset`.
        download: fetch the dataset if it is not on this machine; needs the network.

    Returns:
        d3rlpy's ReplayBuffer; observations and rewards float32 (uint8 images stay), actions in the
        environment's units.

    Raises:
        ImportError: if `dataset` is an id and Minari is not installed.
        FileNotFoundError: from Minari, if the dataset is not on this machine and `download` is off.
        ValueError: if d3rlpy has no such spaces, or an episode is damaged.
    """
    if isinstance(dataset, str):
        dataset = _load(dataset, download)
    if not hasattr(dataset, "iterate_episodes"):
        raise TypeError(
            f"dataset must be a Minari dataset or the id of one, got {type(dataset).__name__}"
        )
    kind, size = describe_action_space(dataset.action_space)
    dtype = np.dtype(np.float32 if NAMES[kind] == "continuous" else np.int64)
    # An episode without steps holds nothing to learn from.
    records = [record for record in dataset.iterate_episodes() if len(record.actions)]
    buffer = make_buffer([_episode(record, dtype) for record in records], kind, size)
    check_dataset(buffer, discrete=NAMES[kind] == "discrete", action_scaler=ANY_RANGE)
    return buffer


def _load(dataset_id: str, download: bool) -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError(
            f"loading the Minari dataset {dataset_id!r} needs Minari: pip install minari",
            name="minari",
        ) from error
    return minari.load_dataset(dataset_id, download=download)


def _episode(record: Any, action_dtype: np.dtype[Any]) -> Episode:
    """One `minari.EpisodeData` with T + 1 observations as an Episode with T."""
    if not isinstance(record.observations, np.ndarray):
        raise ValueError(
            f"observations must be one array an episode, got {type(record.observations).__name__} "
            f"in episode {record.id}; pick or concatenate the parts that the policy is to see, and "
            "hand the arrays to d3rlpy's MDPDataset"
        )
    steps = len(record.actions)
    lengths = {
        "observations": len(record.observations) - 1,
        "rewards": len(record.rewards),
        "terminations": len(record.terminations),
        "truncations": len(record.truncations),
    }
    wrong = {name: length for name, length in lengths.items() if length != steps}
    if wrong:
        name, length = next(iter(wrong.items()))
        extra = int(name == "observations")
        raise ValueError(
            f"episode {record.id} has {steps} actions, so it must have {steps + extra} {name}, got "
            f"{length + extra}; the Minari dataset is damaged"
        )
    observations = record.observations[:-1]
    return Episode(
        observations=observations.astype(stored_dtype(observations.dtype)),
        actions=np.asarray(record.actions).reshape(steps, -1).astype(action_dtype),
        rewards=np.asarray(record.rewards, np.float32).reshape(steps, 1),
        terminated=bool(record.terminations[-1]),
    )
