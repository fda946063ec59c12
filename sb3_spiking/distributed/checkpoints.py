"""Checkpoints of a run on many ranks: whole, or not there.

A checkpoint is a folder `steps_<n>` with the model, VecNormalize's statistics where RL Zoo looks
for them, and each rank's replay buffer. It is filled under another name, and renamed when every
rank is done. The newest two are kept.
"""

import copy
import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback

from policies.distributed import (
    barrier,
    is_main,
    rank,
    world_size,
)
from sb3_spiking.distributed.in_step import check_in_step

_NAME = re.compile(r"steps_(\d+)")
KEEP = 2
STATE = "state.json"


class Checkpoints:
    """The checkpoints in one folder, which every rank can reach.

    Args:
        folder: the folder; it need not exist.
        env_name: RL Zoo's name of the environment.

    Attributes:
        settings: what a run must have in common with its checkpoints, as texts.
    """

    def __init__(self, folder: Path, env_name: str) -> None:
        self.folder = folder
        self.settings: dict[str, str] = {}
        self._env_name = env_name

    def newest(self) -> Path | None:
        """The newest checkpoint whose files are whole; None without any."""
        for _, path in reversed(self._found()):
            if _is_whole(path):
                return path
            print(f"{path} is damaged; the one before it is looked at")
        return None

    def any(self) -> bool:
        """Whether there are checkpoints, whole or not."""
        return bool(self._found())

    def newest_whole(self) -> Path:
        """The newest checkpoint whose files are whole.

        Raises:
            ValueError: if there is none.
        """
        newest = self.newest()
        if newest is None:
            raise ValueError(
                f"no checkpoint in {self.folder} is whole; delete that folder to train anew"
            )
        return newest

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
        if not part.is_dir():
            raise FileNotFoundError(
                f"rank {rank()} does not see {part}, which rank 0 has made; put the log folder "
                "(-f) on a disk that all machines share"
            )
        if getattr(model, "replay_buffer", None) is not None:
            with open(part / f"rank_{rank()}.pkl", "wb") as file:
                pickle.dump(_filled(model.replay_buffer), file, protocol=5)
                _sync(file)
        if is_main():
            model.save(part / "model.zip")
            self._save_normalization(model, part)
        barrier()
        if is_main():
            files = {
                str(path.relative_to(part)): path.stat().st_size
                for path in part.rglob("*")
                if path.is_file()
            }
            for name in files:
                with open(part / name, "rb") as written:
                    os.fsync(written.fileno())
            with open(part / STATE, "w", encoding="utf-8") as file:
                state = {"ranks": world_size(), "settings": self.settings, "files": files}
                file.write(json.dumps(state, indent=2))
                _sync(file)
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

    def check(self, checkpoint: Path) -> None:
        """Raise unless a checkpoint is of a run like this one.

        Raises:
            ValueError: naming what differs.
        """
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if state["ranks"] != world_size():
            raise ValueError(
                f"{checkpoint} is of {state['ranks']} ranks, but {world_size()} are running; "
                f"resume with {state['ranks']} processes in all"
            )
        before = state["settings"]
        for name in sorted({*before, *self.settings}):
            if before.get(name) != self.settings.get(name):
                raise ValueError(
                    f"{name} is {self.settings.get(name)}, but was {before.get(name)} when the "
                    "run began; --resume goes on with the settings of the start: restore them, or "
                    "leave --resume out for another run"
                )

    def clear_replay_buffers(self) -> None:
        """Delete what only a run that goes on needs."""
        for path in self.folder.glob("steps_*/rank_*.pkl"):
            path.unlink()

    @staticmethod
    def load_replay_buffer(model: Any, checkpoint: Path) -> None:
        """Put this rank's replay buffer of a checkpoint into a model, if it has one."""
        if getattr(model, "replay_buffer", None) is None:
            return
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


def _sync(file: IO[Any]) -> None:
    """Have a file on the disk before its folder gets its name."""
    file.flush()
    os.fsync(file.fileno())


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files are there with the sizes that they were written with."""
    try:
        files = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


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
