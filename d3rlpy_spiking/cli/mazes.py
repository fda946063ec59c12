"""The maze's two test sets."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.maze import MazeData, accuracy, maze_dataset, rollout_success

SPLITS = ("pairs", "mazes")
_MEANING = {"pairs": "new starts and goals in known mazes", "mazes": "mazes never trained on"}


def all_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of mazes with every default filled in."""
    signature = inspect.signature(maze_dataset)
    return {name: p.default for name, p in signature.parameters.items()} | given


def known_splits(trained: dict[str, Any] | None, options: dict[str, Any]) -> Sequence[str]:
    """The splits whose names are true of a model that was trained on the mazes of `trained`.

    Args:
        trained: options of its mazes; None: unknown, taken to be `options`.
        options: those to evaluate on.

    Raises:
        UsageError: if some of the mazes would be known and others not.
    """
    if trained is None or all_options(trained) == all_options(options):
        return SPLITS
    if all_options(trained)["seed"] != all_options(options)["seed"]:
        return ("mazes",)  # none of them is known
    raise UsageError(
        "the model was trained on other mazes of the same seed, so some of these may be known to "
        "it; pass the options of its training, or another --seed"
    )


def check_shape(algo: Any, data: MazeData) -> None:
    """Raise UsageError unless the algorithm is for observations of these mazes."""
    shape = tuple(data.dataset.episodes[0].observation_signature.shape[0])
    if tuple(algo.impl.observation_shape) != shape:
        raise UsageError(
            f"the mazes have observations of shape {shape}, the algorithm is for "
            f"{tuple(algo.impl.observation_shape)}; set maze.size as in training"
        )


def maze_accuracy(algo: Any, data: MazeData, splits: Sequence[str] = SPLITS) -> dict[str, Any]:
    """Accuracy of single steps on each set; prints it."""
    results = {}
    for split in splits:
        found = accuracy(algo, getattr(data, split))
        results[split] = dataclasses.asdict(found)
        print(
            f"{split} ({_MEANING[split]}): {found.optimal:.2%} of {found.steps} steps begin a "
            f"shortest path, {found.strict:.2%} of the {found.strict_steps} in states that "
            "training never met",
            flush=True,
        )
    return results


def maze_walks(
    algo: Any, data: MazeData, walks: int, splits: Sequence[str] = SPLITS
) -> dict[str, Any]:
    """Walks on the algorithm's own decisions on each set; prints how many arrive."""
    results = {}
    for split in splits:
        found = rollout_success(algo, getattr(data, split), max_walks=walks)
        results[split] = dataclasses.asdict(found)
        print(
            f"{split}: {found.success:.1%} of {found.episodes} walks reach the goal, "
            f"{found.optimal:.1%} by a shortest path",
            flush=True,
        )
    return results
