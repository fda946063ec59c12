"""Checkpoints of a run on many ranks: whole, or not there.

A checkpoint is a folder `steps_<n>` with the model, VecNormalize's statistics where RL Zoo looks
for them, and each rank's replay buffer. It is filled under another name, and renamed when every
rank is done. The newest two are kept.
"""

import copy
import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from policies.distributed import barrier, gather_objects, is_main, rank, world_size

_NAME = re.compile(r"steps_(\d+)")
KEEP = 2


class Checkpoints:
    """The checkpoints in one folder, which every rank can reach.

    Args:
        folder: the folder; it need not exist.
        env_name: RL Zoo's name of the environment.
    """

    def __init__(self, folder: Path, env_name: str) -> None:
        self.folder = folder
        self._env_name = env_name

    def newest(self) -> Path | None:
        """The newest checkpoint; None without any."""
        found = self._found()
        return found[-1][1] if found else None

    def _found(self) -> list[tuple[int, Path]]:
        paths = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("steps_*")]
        return sorted((int(match[1]), path) for match, path in paths if match is not None)

    def write(self, model: Any) -> None:
        """Keep the model and what its training needs; every rank must call it.

        Raises:
            RuntimeError: if the ranks' parameters are no longer the same.
        """
        check_in_step(model)
        part = self.folder / f".steps_{model.num_timesteps}.part"
        if is_main():
            for stale in self.folder.glob(".steps_*.part"):  # of a process that was killed
                shutil.rmtree(stale)
            part.mkdir(parents=True)
        barrier()
        if getattr(model, "replay_buffer", None) is not None:
            _write(part / f"rank_{rank()}.pkl", pickle.dumps(_filled(model.replay_buffer)))
        if is_main():
            model.save(part / "model.zip")
            self._save_normalization(model, part)
            _write(part / "state.json", json.dumps({"ranks": world_size()}).encode())
        barrier()
        if is_main():
            target = self.folder / f"steps_{model.num_timesteps}"
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
            for _, path in self._found()[:-KEEP]:
                shutil.rmtree(path)

    def _save_normalization(self, model: Any, part: Path) -> None:
        env = model.get_vec_normalize_env()
        if env is not None:
            (part / self._env_name).mkdir()
            env.save(str(part / self._env_name / "vecnormalize.pkl"))

    @staticmethod
    def load_replay_buffer(model: Any, checkpoint: Path) -> None:
        """Put this rank's replay buffer of a checkpoint into a model, if it has one.

        Raises:
            ValueError: if the checkpoint is of another number of ranks.
        """
        if getattr(model, "replay_buffer", None) is None:
            return
        ranks = json.loads((checkpoint / "state.json").read_text())["ranks"]
        if ranks != world_size():
            raise ValueError(
                f"{checkpoint} holds the replay buffers of {ranks} ranks, but {world_size()} are "
                f"running; resume with --nproc-per-node {ranks}"
            )
        buffer = _whole(*pickle.loads((checkpoint / f"rank_{rank()}.pkl").read_bytes()))
        if isinstance(buffer, HerReplayBuffer):
            buffer.set_env(model.env)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that half an episode is left out
                buffer.truncate_last_trajectory()
        buffer.device = model.device
        model.replay_buffer = buffer


class SaveCheckpoints(BaseCallback):
    """Writes a checkpoint between two rollouts, every so many environment steps; on every rank.

    Args:
        checkpoints: where.
        every: environment steps over all ranks.
    """

    def __init__(self, checkpoints: Checkpoints, every: int) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._every = every
        self._next = every

    def _on_training_start(self) -> None:
        self._next = (self.model.num_timesteps // self._every + 1) * self._every

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._next:
            self._next = (self.model.num_timesteps // self._every + 1) * self._every
            self._checkpoints.write(self.model)

    def _on_step(self) -> bool:
        return True


def check_in_step(model: Any) -> None:
    """Raise unless every rank holds the same parameters, to the last bit.

    Raises:
        RuntimeError: on every rank.
    """
    digest = hashlib.sha256()
    for name, x in sorted(model.policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(x.detach().cpu().contiguous().view(-1).numpy().tobytes())
    digests = gather_objects(digest.hexdigest())
    if len(set(digests)) > 1:
        apart = [number for number, other in enumerate(digests) if other != digests[0]]
        raise RuntimeError(
            f"the parameters of ranks {apart} are no longer those of rank 0: a callback or a "
            "subclass moved them on one rank only; let it do the same on all"
        )


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _filled(buffer: ReplayBuffer) -> tuple[ReplayBuffer, list[str]]:
    """A copy without the empty rows of its arrays, and the names of these."""
    small = copy.copy(buffer)
    # One more than is filled: next observations may be the next row's observations.
    rows = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
    names = [name for name, x in vars(buffer).items() if _has_rows(x, buffer.buffer_size)]
    for name in names:
        setattr(small, name, _map(getattr(buffer, name), lambda x: x[:rows]))
    return small, names


def _whole(buffer: ReplayBuffer, names: list[str]) -> ReplayBuffer:
    """The buffer of `_filled` with arrays of their full size, in place."""

    def grown(x: NDArray[Any]) -> NDArray[Any]:
        whole = np.zeros((buffer.buffer_size, *x.shape[1:]), x.dtype)
        whole[: len(x)] = x
        return whole

    for name in names:
        setattr(buffer, name, _map(getattr(buffer, name), grown))
    return buffer


def _has_rows(value: Any, rows: int) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_has_rows(x, rows) for x in value.values())
    return isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == rows


def _map(value: Any, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
    """An array, or a dict of arrays, changed."""
    if isinstance(value, dict):
        return {key: change(x) for key, x in value.items()}
    return change(value)
