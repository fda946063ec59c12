"""The dataset of a training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import ReplayBuffer

from d3rlpy_spiking.cli.config import TrainFile, is_discrete
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.dataset_checks import check_dataset
from d3rlpy_spiking.datasets import load_buffer, load_npz
from d3rlpy_spiking.maze import MazeData, maze_dataset


@dataclass(frozen=True)
class Data:
    """A dataset, and the maze's test sets where it is the maze."""

    dataset: ReplayBuffer
    maze: MazeData | None

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return tuple(self.dataset.episodes[0].observation_signature.shape[0])


def load_data(name: str, file: TrainFile, action_size: int | None) -> Data:
    """Load a dataset and check that the algorithm can train on it.

    Args:
        name: "maze", or the path of a .npz or .h5 file.
        file: what to train.
        action_size: number of discrete actions; None: what the file says.

    Raises:
        FileNotFoundError: if there is no such file.
        UsageError: if the name is neither, or more is needed to read it.
        ValueError: if the dataset is broken or does not fit the algorithm.
    """
    discrete = is_discrete(file.config)
    if name == "maze":
        data = _maze(file, discrete)
    elif action_size is not None and not discrete:
        raise UsageError(f"--action-size is for discrete actions, {file.algorithm} is not")
    elif file.maze is not None:
        raise UsageError(
            f"{file.path} has maze options, which --dataset maze reads and {name} does not; "
            "remove the section or train on the maze"
        )
    else:
        data = Data(load_file(Path(name), discrete, action_size), None)
    check_dataset(data.dataset, discrete=discrete, action_scaler=file.config.action_scaler)
    _check_length(data.dataset, file.config)
    return data


def _maze(file: TrainFile, discrete: bool) -> Data:
    if not discrete:
        raise UsageError(
            f"the maze has discrete actions, {file.algorithm} continuous ones; take strl, "
            "discrete_dsformer or another discrete algorithm"
        )
    maze = maze_dataset(**(file.maze or {}))
    return Data(maze.dataset, maze)


def load_file(path: Path, discrete: bool, action_size: int | None) -> ReplayBuffer:
    """The dataset in a .npz or .h5 file.

    Raises:
        FileNotFoundError: if there is no such file.
        UsageError: if it is of another kind, or the number of discrete actions is not known.
        ValueError: if it is broken.
    """
    if path.suffix == ".npz":
        return load_npz(path, action_size=action_size if discrete else None)
    if path.suffix not in (".h5", ".hdf5"):
        raise UsageError(f"--dataset must be maze, a .npz file or a .h5 file, got {path}")
    kind = ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS
    if discrete and action_size is None:
        raise UsageError(
            f"{path} does not say how many actions there are, and the last may never be taken in "
            "it; pass --action-size"
        )
    size = action_size if discrete and action_size is not None else _action_width(path)
    return load_buffer(path, kind, size)


def _action_width(path: Path) -> int:
    """Dimensions of the actions in a file of d3rlpy's dump; 1 for another file."""
    try:
        with h5py.File(path, "r") as file:
            return int(file["actions_0"].shape[-1])
    except (OSError, KeyError, IndexError):
        return 1  # load_buffer says what is wrong with it


def _check_length(dataset: ReplayBuffer, config: Any) -> None:
    """Raise where a timestep would be looked up beyond its table, in d3rlpy's dense ones too."""
    longest = max(episode.size() for episode in dataset.episodes)
    if getattr(config, "timestep_embedding", True) and longest > config.max_timestep:
        raise UsageError(
            f"config.max_timestep must be at least the longest episode, {longest} steps, got "
            f"{config.max_timestep}"
        )
