"""How well a d3rlpy transformer walks mazes: per step along the expert's way, and on its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from d3rlpy_spiking.maze.data import TARGET_RETURN, MazeSet, Walk
from d3rlpy_spiking.maze.env import default_max_steps
from d3rlpy_spiking.maze.generate import ACTIONS, Cell
from d3rlpy_spiking.maze.windows import (
    Moment,
    Windows,
    evaluating,
    make_windows,
    transformer_of,
    window_logits,
)
from policies.config import check_count, check_range

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of single steps, each from the expert's own history.

    Args:
        steps: expert actions predicted.
        optimal: part of them where the prediction begins a shortest path, in [0, 1].
        expert: part where it is the very action that the expert took, in [0, 1].
        strict_steps: steps in states that no training trajectory was in.
        strict: `optimal` of those, in [0, 1]; NaN if there are none.
    """

    steps: int
    optimal: float
    expert: float
    strict_steps: int
    strict: float


@dataclass(frozen=True)
class Rollouts:
    """Walks on its own.

    Args:
        episodes: number of walks.
        success: part that reached the goal within the step limit, in [0, 1].
        optimal: part that reached it in as few steps as possible, in [0, 1].
        stretch: mean of steps over fewest steps, of the successful walks, >= 1; NaN without any.
    """

    episodes: int
    success: float
    optimal: float
    stretch: float


class LeakError(RuntimeError):
    """A prediction depends on the action that it predicts, or on later ones."""


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def predict(
    algo: Any,
    moments: Sequence[Moment],
    *,
    target_return: float = TARGET_RETURN,
    batch_size: int = 256,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Greedy actions for many steps at once, [N]; equal to d3rlpy's stateful wrapper's.

    Args:
        algo: a built d3rlpy transformer algorithm with discrete actions.
        moments: the steps to predict, in mazes of one size.
        target_return: return to ask for.
        batch_size: steps in a forward pass.

    Raises:
        TypeError: if algo is no such algorithm.
        ValueError: if it is not built.
    """
    check_count("batch_size", batch_size)
    module = transformer_of(algo)
    actions: list[torch.Tensor] = []
    with evaluating(module):
        for batch in _batches(moments, batch_size):
            windows = make_windows(algo, batch, target_return)
            actions.append(window_logits(module, windows)[:, -1].argmax(dim=-1).cpu())
    return torch.cat(actions).numpy()


def _moments(test_set: MazeSet, walk: Walk) -> list[Moment]:
    maze = test_set.mazes[walk.maze]
    return [
        Moment(maze, walk.goal, walk.cells[: step + 1], walk.actions[:step])
        for step in range(len(walk.actions))
    ]


def accuracy(
    algo: Any,
    test_set: MazeSet,
    *,
    target_return: float = TARGET_RETURN,
    batch_size: int = 256,
    max_walks: int | None = None,
) -> Accuracy:
    """Per-step accuracy along the expert's trajectories; any shortest-path action counts.

    Args:
        algo: a built d3rlpy transformer algorithm with discrete actions.
        test_set: trajectories of `maze_dataset`.
        target_return: return to ask for.
        batch_size: steps in a forward pass.
        max_walks: take only so many trajectories, evenly spread; None takes all.

    Raises:
        TypeError: if algo is no such algorithm.
        ValueError: if it is not built.
    """
    chosen = _spread(len(test_set.walks), max_walks)
    walks = [test_set.walks[i] for i in chosen]
    moments = [moment for walk in walks for moment in _moments(test_set, walk)]
    predicted = predict(algo, moments, target_return=target_return, batch_size=batch_size)
    optimal = np.concatenate([walk.optimal for walk in walks])[np.arange(len(moments)), predicted]
    expert = predicted == np.concatenate([walk.actions for walk in walks])
    fresh = ~np.concatenate([test_set.seen[i] for i in chosen])
    return Accuracy(
        steps=len(moments),
        optimal=float(optimal.mean()),
        expert=float(expert.mean()),
        strict_steps=int(fresh.sum()),
        strict=float(optimal[fresh].mean()) if fresh.any() else float("nan"),
    )


def _spread(total: int, wanted: int | None) -> list[int]:
    """`wanted` indices below `total`, evenly spread; all of them for None."""
    if wanted is None:
        return list(range(total))
    check_count("max_walks", wanted)
    return [int(i) for i in np.linspace(0, total - 1, min(wanted, total)).round()]


def _roll(
    algo: Any, starts: Sequence[Moment], max_steps: int, target_return: float
) -> Iterator[tuple[int, list[Cell]]]:
    """Walk from `starts` side by side; (index, cells) of each walk, in the order of their ends."""
    active = {index: replace(m, cells=[*m.cells], actions=[]) for index, m in enumerate(starts)}
    for _ in range(max_steps):
        actions = predict(
            algo, [*active.values()], target_return=target_return, batch_size=len(starts)
        )
        for (index, moment), action in zip(list(active.items()), actions, strict=True):
            cells = [*moment.cells, moment.maze.step(moment.cells[-1], int(action))]
            active[index] = replace(moment, cells=cells, actions=[*moment.actions, int(action)])
            if cells[-1] == moment.goal:
                del active[index]
                yield index, cells
        if not active:
            return
    for index, moment in active.items():
        yield index, list(moment.cells)


def rollout_success(
    algo: Any,
    test_set: MazeSet,
    *,
    max_steps: int | None = None,
    target_return: float = TARGET_RETURN,
    batch_size: int = 256,
    max_walks: int | None = None,
) -> Rollouts:
    """Greedy walks from the starts of a test set to its goals, on the algorithm's own decisions.

    Args:
        algo: a built d3rlpy transformer algorithm with discrete actions.
        test_set: trajectories of `maze_dataset`; only their starts, goals and lengths are used.
        max_steps: step limit; None for the environment's, H * W.
        target_return: return to ask for.
        batch_size: walks side by side.
        max_walks: take only so many walks, evenly spread; None takes all.

    Raises:
        TypeError: if algo is no such algorithm.
        ValueError: if it is not built, or max_steps is below 1.
    """
    limit = default_max_steps(test_set.mazes[0].shape) if max_steps is None else max_steps
    check_count("max_steps", limit)
    check_count("batch_size", batch_size)
    walks = [test_set.walks[i] for i in _spread(len(test_set.walks), max_walks)]
    stretches: list[float] = []
    for batch in _batches(walks, batch_size):
        starts = [Moment(test_set.mazes[w.maze], w.goal, w.cells[:1], ()) for w in batch]
        for index, cells in _roll(algo, starts, limit, target_return):
            if cells[-1] == batch[index].goal:
                stretches.append((len(cells) - 1) / len(batch[index].actions))
    return Rollouts(
        episodes=len(walks),
        success=len(stretches) / len(walks),
        optimal=stretches.count(1.0) / len(walks),
        stretch=float(np.mean(stretches)) if stretches else float("nan"),
    )


def _with_later_steps_of_others(windows: Windows, step: int, actions: Tensor) -> Windows:
    """The windows with these actions, and after `step` with the observations of their mirror."""
    seen, later = windows.observations[:, : step + 1], windows.observations.flip(0)[:, step + 1 :]
    return replace(windows, actions=actions, observations=torch.cat([seen, later], dim=1))


def leak_check(
    algo: Any,
    test_set: MazeSet,
    *,
    target_return: float = TARGET_RETURN,
    max_walks: int = 64,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> float:
    """Check that no prediction depends on the action it predicts or on anything later.

    For every step k of a window, the actions from k on are replaced by others, and the observations
    after k by those of another window; the logits of the steps up to k must not move. A model that
    fails has its target in its input, and its accuracy means nothing.

    Args:
        algo: a built d3rlpy transformer algorithm with discrete actions.
        test_set: trajectories of `maze_dataset`.
        target_return: return to ask for.
        max_walks: trajectories to check, evenly spread; each at its last step.
        tolerance: largest change of a logit that is still rounding.
        seed: seed of the replacements.

    Returns:
        The largest change seen.

    Raises:
        LeakError: if a logit changed by more than the tolerance, or is not a number.
        TypeError: if algo is no such algorithm.
        ValueError: if it is not built.
    """
    check_range("tolerance", tolerance, 0.0)
    module = transformer_of(algo)
    walks = [test_set.walks[i] for i in _spread(len(test_set.walks), max_walks)]
    moments = [_moments(test_set, walk)[-1] for walk in walks]
    windows = make_windows(algo, moments, target_return)
    for row, walk in enumerate(walks):
        windows.actions[row, -1] = walk.actions[-1]
    generator = torch.Generator().manual_seed(seed)
    largest = 0.0
    with evaluating(module):
        before = window_logits(module, windows)
        for step in range(before.shape[1]):
            # An offset of 1 to 3 changes every action.
            offset = torch.randint(1, len(ACTIONS), windows.actions.shape, generator=generator)
            offset[:, :step] = 0
            other = (windows.actions + offset.to(windows.actions)) % len(ACTIONS)
            after = window_logits(module, _with_later_steps_of_others(windows, step, other))
            change = (after - before)[:, : step + 1].abs() * windows.masks[:, : step + 1, None]
            largest = max(largest, float(change.nan_to_num(nan=float("inf")).max()))
    if largest > tolerance:
        raise LeakError(
            f"a logit moved by {largest:g} (tolerance {tolerance:g}) when the action it predicts, "
            "or a later step, was changed; mask the tokens so that a step sees only those before it"
        )
    return largest
