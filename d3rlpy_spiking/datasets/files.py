"""Datasets in files: arrays in a NumPy archive, and d3rlpy's own HDF5."""

import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import Episode, ReplayBuffer
from d3rlpy.dataset.io import load as load_episodes
from numpy.typing import NDArray

from d3rlpy_spiking.dataset_checks import ANY_RANGE, check_dataset
from d3rlpy_spiking.datasets.episodes import make_buffer, split_episodes, stored_dtype
from d3rlpy_spiking.datasets.spaces import NAMES, ActionSpaceName, as_action_space
from policies.config import check_count

_ARRAYS = ("observations", "actions", "rewards", "terminals", "timeouts")


def load_npz(
    path: str | PathLike[str],
    *,
    action_space: ActionSpaceName | ActionSpace | None = None,
    action_size: int | None = None,
) -> ReplayBuffer:
    """Read a dataset from a NumPy archive; no pickle in it is executed.

    The archive holds, for N steps in order:

        observations  [N, ...]          numbers; kept as float32, uint8 images as they are
        actions       [N, A] or [N]     in the environment's units
        rewards       [N] or [N, 1]
        terminals     [N]               true where the environment ended the episode
        timeouts      [N]               true where the episode was cut; never both
        action_space, action_size       optional, as `save_npz` writes them

    Other arrays are ignored. Steps after the last end are an episode that ends in a timeout.

    Args:
        path: the archive.
        action_space: "continuous" or "discrete"; None: what the file says, else discrete if the
            actions are stored as integers.
        action_size: number of discrete actions; None: what the file says, else the largest + 1.

    Returns:
        d3rlpy's ReplayBuffer; discrete actions are int64.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if action_size is no integer.
        ValueError: if it is no archive, is damaged or holds pickled objects, or an array is
            missing, of another length, of another kind, not finite, or contradicts another. The
            message names the array and the first step, counted from 0.
    """
    path = Path(path)
    arrays = _read(path)
    _check_shapes(arrays, path)
    terminals, timeouts = _ends(arrays)
    observations, rewards = (_numbers(name, arrays[name]) for name in ("observations", "rewards"))
    actions, kind, size = _actions(arrays, action_space, action_size)
    rewards = rewards.reshape(-1, 1)
    episodes = split_episodes(observations, actions, rewards, terminals, timeouts)
    buffer = make_buffer(episodes, kind, size)
    check_dataset(buffer, discrete=kind == ActionSpace.DISCRETE, action_scaler=ANY_RANGE)
    return buffer


def save_npz(buffer: ReplayBuffer, path: str | PathLike[str]) -> Path:
    """Write a dataset to a compressed NumPy archive that `load_npz` reads back unchanged.

    The file appears whole or not at all: it is written beside its place and then moved there.

    Args:
        buffer: the dataset; one array an observation.
        path: where to write; an existing file is replaced. The name is taken as it is, so end it
            in .npz.

    Returns:
        path.

    Raises:
        ValueError: if the dataset is empty, or its observations are tuples of arrays.
        OSError: if the file cannot be written.
    """
    episodes = buffer.episodes
    if not episodes:
        raise ValueError("the dataset is empty: there is nothing to save")
    if not isinstance(episodes[0].observations, np.ndarray):
        raise ValueError(
            "observations must be one array an episode, got a tuple of arrays; save those with "
            "d3rlpy's ReplayBuffer.dump and read them with load_buffer"
        )
    info = buffer.dataset_info
    lengths = np.array([len(episode) for episode in episodes])
    ends = np.zeros(lengths.sum(), np.bool_)
    ends[np.cumsum(lengths) - 1] = True
    terminated = np.repeat([episode.terminated for episode in episodes], lengths)
    observations = np.concatenate([episode.observations for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    discrete = info.action_space == ActionSpace.DISCRETE
    arrays = {
        "observations": observations.astype(stored_dtype(observations.dtype)),
        "actions": actions.astype(np.int64 if discrete else np.float32),
        "rewards": np.concatenate([episode.rewards for episode in episodes])[:, 0].astype("f4"),
        "terminals": ends & terminated,
        "timeouts": ends & ~terminated,
        "action_space": np.array(NAMES[info.action_space]),
        "action_size": np.array(info.action_size),
    }
    path = Path(path)
    _write(path, arrays)
    return path


def load_buffer(
    path: str | PathLike[str], action_space: ActionSpaceName | ActionSpace, action_size: int
) -> ReplayBuffer:
    """Read a dataset that d3rlpy's `ReplayBuffer.dump` wrote (HDF5).

    d3rlpy's own `ReplayBuffer.load` guesses the actions: the number of discrete ones comes out too
    small where the last is never taken, and continuous ones that are all whole numbers come out
    discrete.

    Args:
        path: the file.
        action_space: "continuous" or "discrete".
        action_size: action dimensions, or number of discrete actions.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or d3rlpy cannot train on what it holds; see `check_dataset`.
    """
    kind = as_action_space(action_space)
    check_count("action_size", action_size)
    try:
        with open(path, "rb") as file:
            episodes = load_episodes(Episode, file)
    except FileNotFoundError:
        raise
    except (OSError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged or no file of d3rlpy's ReplayBuffer.dump ({error}); write it again"
        ) from error
    buffer = make_buffer(episodes, kind, action_size)
    check_dataset(buffer, discrete=kind == ActionSpace.DISCRETE, action_scaler=ANY_RANGE)
    return buffer


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the archive that `load_npz` knows; nothing is unpickled."""
    try:
        with open(path, "rb") as file:  # np.load leaves a damaged file open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            names = [*_ARRAYS, "action_space", "action_size"]
            arrays = {name: archive[name] for name in names if name in archive}
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be a NumPy archive of plain arrays, but it is another kind of file, is "
            f"damaged, or holds pickled objects ({error}); write it with save_npz or np.savez"
        ) from error
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} must hold the arrays {list(_ARRAYS)}, but {missing} are missing; where "
            "nothing ended or was cut, store an array of False"
        )
    return arrays


def _check_shapes(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    axes = {"observations": "[N, ...]", "actions": "[N, A] or [N]"}
    for name in _ARRAYS:
        shape = arrays[name].shape
        one_value = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        fits = {"observations": len(shape) >= 2, "actions": len(shape) in (1, 2)}
        if not fits.get(name, one_value):
            raise ValueError(f"{name} must be {axes.get(name, '[N]')}, got shape {shape} in {path}")
    lengths = {name: len(arrays[name]) for name in _ARRAYS}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"all arrays must have one entry a step, got {lengths} in {path}; an observation after "
            "an episode's last step is not stored"
        )
    if not lengths["actions"]:
        raise ValueError(f"{path} holds no steps; record some")


def _ends(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Terminals and timeouts, [N] each."""
    terminals, timeouts = (_flags(name, arrays[name]) for name in ("terminals", "timeouts"))
    both = np.flatnonzero(terminals & timeouts)
    if len(both):
        raise ValueError(
            f"terminals and timeouts must not both be true, but are at step {both[0]} and "
            f"{len(both) - 1} more; if the environment ended the episode there, it is a terminal: "
            "use timeouts & ~terminals"
        )
    if not (terminals | timeouts).any():
        raise ValueError(
            "terminals and timeouts must mark the end of at least one episode, but are false at "
            "every step; mark each episode's last step"
        )
    return terminals, timeouts


def _flags(name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    flags = values.reshape(-1)
    if flags.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be booleans, got {flags.dtype}")
    wrong = np.flatnonzero((flags != 0) & (flags != 1))
    if len(wrong):
        raise ValueError(f"{name} must be true or false, got {flags[wrong[0]]} at step {wrong[0]}")
    return flags.astype(np.bool_)


def _numbers(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Values as they are kept; raises unless they are finite numbers."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got {values.dtype}")
    dtype = stored_dtype(values.dtype) if name == "observations" else np.dtype(np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is named below
        kept = values.astype(dtype)
    finite = np.isfinite(kept)
    if not finite.all():
        index = tuple(np.argwhere(~finite)[0].tolist())
        raise ValueError(
            f"{name} must be finite in float32, got {values[index]} at index {list(index)} "
            f"({int((~finite).sum())} of {kept.size} values); repair or cut out that episode"
        )
    return kept


def _actions(
    arrays: Mapping[str, NDArray[Any]],
    space: ActionSpaceName | ActionSpace | None,
    size: int | None,
) -> tuple[NDArray[Any], ActionSpace, int]:
    """Actions [N, A], their kind and size, from the arguments, the file, or the array itself."""
    actions = arrays["actions"].reshape(len(arrays["actions"]), -1)
    _numbers("actions", actions)
    if space is None and "action_space" in arrays:
        space = str(arrays["action_space"])
    if space is None:
        space = "discrete" if actions.dtype.kind in "biu" else "continuous"
    kind = as_action_space(space)
    if size is None and "action_size" in arrays:
        size = arrays["action_size"].item()
    if size is not None:
        check_count("action_size", size)
    if kind == ActionSpace.CONTINUOUS:
        width = actions.shape[1]
        if size not in (None, width):
            raise ValueError(f"action_size is {size}, but the actions have {width} dimensions")
        return actions.astype(np.float32), kind, width
    with np.errstate(invalid="ignore"):  # what is no int64 differs from its cast
        whole = actions.astype(np.int64)
    if actions.shape[1] != 1 or (whole != actions).any():
        raise ValueError(
            "discrete actions must be one whole number a step, got "
            f"{actions.dtype} of shape {actions.shape}; pass action_space='continuous' for others"
        )
    return whole, kind, int(whole.max()) + 1 if size is None else size


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write beside `path`, then move there: a run that is killed leaves no half file behind."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
