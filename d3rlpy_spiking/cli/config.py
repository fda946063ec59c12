"""The YAML file of a training run."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from d3rlpy.constants import ActionSpace

from d3rlpy_spiking.cli.errors import UsageError, one_line
from d3rlpy_spiking.cli.fields import check_keys, plain, read_arguments, read_dataclass
from d3rlpy_spiking.cli.names import config_class
from d3rlpy_spiking.cli.yaml_file import read_yaml
from d3rlpy_spiking.maze import maze_dataset
from policies.config import check_count

_SECTIONS = ("algorithm", "train", "config", "maze")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How long to train, and what to do meanwhile."""

    # gradient steps in all
    n_steps: int
    # gradient steps of an epoch: metrics are written after each
    n_steps_per_epoch: int = 1000
    # epochs from one checkpoint, and evaluation, to the next
    save_interval: int = 1
    # return to ask for in --eval-env; None: none is given
    target_return: float | None = None
    # episodes of an evaluation
    eval_episodes: int = 10

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("n_steps", "n_steps_per_epoch", "save_interval", "eval_episodes"):
            check_count(name, getattr(self, name))
        left = self.n_steps % self.n_steps_per_epoch
        if left:
            raise ValueError(
                f"n_steps must be a multiple of n_steps_per_epoch ({self.n_steps_per_epoch}), got "
                f"{self.n_steps}; d3rlpy trains whole epochs and would leave out the last {left}; "
                "change one of them"
            )


@dataclasses.dataclass(frozen=True)
class TrainFile:
    """What a YAML file asks for, checked.

    Args:
        path: the file.
        algorithm: name of the algorithm.
        config: its config.
        options: the section train.
        maze: arguments of maze_dataset; None if the file has no such section.
    """

    path: Path
    algorithm: str
    config: Any
    options: TrainOptions
    maze: dict[str, Any] | None

    def settings(self) -> dict[str, Any]:
        """All that shapes the trained weights, but for length and seed, as plain values."""
        return {
            "algorithm": self.algorithm,
            "config": plain(self.config)["params"],
            "maze": {name: plain(value) for name, value in (self.maze or {}).items()},
        }


def find_config(name: str) -> Path:
    """The file at a path, or one of the shipped files by its name.

    Raises:
        UsageError: if there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    # Without a module in it, the folder is a namespace that may lie in several places.
    spec = find_spec("zoo_configs")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [file for place in reversed(places) for file in Path(place, "d3rlpy").glob("*.yml")]
    shipped = {file.stem: file for file in sorted(found)}
    if name not in shipped:
        raise UsageError(
            f"there is no file {name}, and it is no name of a shipped one: {', '.join(shipped)}"
        )
    return shipped[name]


def read_train_file(
    path: Path, steps: int | None = None, target_return: float | None = None
) -> TrainFile:
    """Read and check a file; steps and target_return stand in for what it says.

    Raises:
        UsageError: if anything in it is unknown, missing, of the wrong type or out of range.
        FileNotFoundError: if there is no such file.
    """
    try:
        content = check_keys(read_yaml(path), _SECTIONS, "the file")
        for name in ("algorithm", "config"):
            if name not in content:
                raise UsageError(f"the file lacks {name}")
        config = read_dataclass(config_class(content["algorithm"]), content["config"], "config")
        options = _read_options(content.get("train", {}), steps, target_return)
        maze = _read_maze(content)
        _check_config(config)
    except UsageError as error:
        raise UsageError(f"{path}: {one_line(error)}") from error
    return TrainFile(path, content["algorithm"], config, options, maze)


def read_maze_options(path: Path) -> dict[str, Any]:
    """The section maze of a file, or no options if it has none; raises as `read_train_file`."""
    try:
        return _read_maze(check_keys(read_yaml(path), _SECTIONS, "the file")) or {}
    except UsageError as error:
        raise UsageError(f"{path}: {one_line(error)}") from error


def _read_maze(content: dict[str, Any]) -> dict[str, Any] | None:
    return read_arguments(maze_dataset, content["maze"], "maze") if "maze" in content else None


def _read_options(section: object, steps: int | None, target: float | None) -> TrainOptions:
    known = [field.name for field in dataclasses.fields(TrainOptions)]
    given = check_keys(section, known, "train")
    if target is not None:
        given["target_return"] = target
    if steps is not None:
        given["n_steps"] = steps
        # A trial of few steps is one epoch, whatever the file's epochs are.
        epoch = given.get("n_steps_per_epoch", TrainOptions.n_steps_per_epoch)
        if isinstance(epoch, int) and epoch > steps:
            given["n_steps_per_epoch"] = steps
    options: TrainOptions = read_dataclass(TrainOptions, given, "train")
    return options


def _check_config(config: Any) -> None:
    """Raise where d3rlpy would fail later, or on an assertion; ours check themselves."""
    try:
        for name in ("batch_size", "context_size", "max_timestep", "num_heads", "num_layers"):
            check_count(name, getattr(config, name))
        config.create()
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"config: {one_line(error)}") from error


def is_discrete(config: Any) -> bool:
    """Whether an algorithm's actions are discrete."""
    return bool(config.create().get_action_type() == ActionSpace.DISCRETE)
