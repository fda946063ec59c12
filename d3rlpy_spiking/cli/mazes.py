"""The maze's two test sets."""

import dataclasses
from typing import Any

from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.maze import MazeData, accuracy, rollout_success

SPLITS = ("pairs", "mazes")
_MEANING = {"pairs": "new starts and goals in known mazes", "mazes": "mazes never trained on"}


def check_shape(algo: Any, data: MazeData) -> None:
    """Raise UsageError unless the algorithm is for observations of these mazes."""
    shape = tuple(data.dataset.episodes[0].observation_signature.shape[0])
    if tuple(algo.impl.observation_shape) != shape:
        raise UsageError(
            f"the mazes have observations of shape {shape}, the algorithm is for "
            f"{tuple(algo.impl.observation_shape)}; set maze.size as in training"
        )


def maze_accuracy(algo: Any, data: MazeData) -> dict[str, Any]:
    """Accuracy of single steps on both sets; prints it."""
    results = {}
    for split in SPLITS:
        found = accuracy(algo, getattr(data, split))
        results[split] = dataclasses.asdict(found)
        print(
            f"{split} ({_MEANING[split]}): {found.optimal:.2%} of {found.steps} steps begin a "
            f"shortest path, {found.strict:.2%} of the {found.strict_steps} in states that "
            "training never met",
            flush=True,
        )
    return results


def maze_walks(algo: Any, data: MazeData, walks: int) -> dict[str, Any]:
    """Walks on the algorithm's own decisions on both sets; prints how many arrive."""
    results = {}
    for split in SPLITS:
        found = rollout_success(algo, getattr(data, split), max_walks=walks)
        results[split] = dataclasses.asdict(found)
        print(
            f"{split}: {found.success:.1%} of {found.episodes} walks reach the goal, "
            f"{found.optimal:.1%} by a shortest path",
            flush=True,
        )
    return results
