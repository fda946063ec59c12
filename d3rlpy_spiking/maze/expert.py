"""The expert: shortest paths by breadth-first search."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from d3rlpy_spiking.maze.generate import MOVES, Cell, Maze, neighbours
from policies.config import check_choice

# How a demonstration picks among several shortest-path actions: the first in the order up, right,
# down, left, or one drawn at random at every step.
TieBreak = Literal["first", "random"]


def check_cell(name: str, cell: Cell, maze: Maze) -> None:
    """Raise ValueError unless `cell` is (row, column) inside the maze."""
    if len(cell) != 2 or not all(0 <= c < n for c, n in zip(cell, maze.shape, strict=True)):
        raise ValueError(
            f"{name} must be (row, column) inside a maze of {maze.shape} cells, got {cell!r}"
        )


def distances(maze: Maze, goals: NDArray[np.integer]) -> NDArray[np.int32]:
    """Steps from every cell to each goal, by one wavefront for all goals at once.

    Args:
        maze: the maze.
        goals: (row, column) of each goal, [G, 2].

    Returns:
        Distances [G, H, W]; -1 where a goal cannot be reached.

    Raises:
        ValueError: if a goal is not a cell of the maze.
    """
    goals = np.asarray(goals)
    for goal in goals:
        check_cell("goal", (int(goal[0]), int(goal[1])), maze)
    height, width = maze.shape
    # A border of one cell holds the neighbours of the outermost cells: nothing.
    padded = np.zeros((len(goals), height + 2, width + 2), dtype=np.bool_)
    sources = [padded[:, 1 + r : 1 + r + height, 1 + c : 1 + c + width] for r, c in MOVES]
    wave = padded[:, 1:-1, 1:-1]
    wave[np.arange(len(goals)), goals[:, 0], goals[:, 1]] = True
    found = np.where(wave, 0, -1).astype(np.int32)
    steps = 0
    while wave.any():
        steps += 1
        spread = found < 0
        spread &= np.logical_or.reduce(
            [passage & source for passage, source in zip(maze.passages, sources, strict=True)]
        )
        wave[:] = spread
        found[spread] = steps
    return found


def optimal_actions(maze: Maze, goal: Cell) -> NDArray[np.bool_]:
    """Which actions begin a shortest path to the goal: bool [4, H, W], all False at the goal."""
    to_goal = distances(maze, np.array([goal]))[0]
    return optimal_from_distances(maze, to_goal)


def optimal_from_distances(maze: Maze, to_goal: NDArray[np.int32]) -> NDArray[np.bool_]:
    """As `optimal_actions`, from distances [..., H, W]: bool [..., 4, H, W]."""
    per_action = [
        maze.passages[action] & (to_goal > 0) & (neighbours(to_goal, action, -1) == to_goal - 1)
        for action in range(len(MOVES))
    ]
    return np.stack(per_action, axis=-3)


def demonstrate(
    maze: Maze,
    optimal: NDArray[np.bool_],
    start: Cell,
    *,
    tie_break: TieBreak = "first",
    rng: np.random.Generator | None = None,
) -> tuple[list[Cell], list[int]]:
    """Walk a shortest path.

    Args:
        maze: the maze.
        optimal: shortest-path actions to the goal, bool [4, H, W], from `optimal_actions`.
        start: (row, column) to start from.
        tie_break: "first" takes the first of several actions in the order up, right, down, left;
            "random" draws one.
        rng: generator for "random".

    Returns:
        The cells walked through, goal included (n + 1), and the actions (n).

    Raises:
        ValueError: if start lies outside, tie_break is unknown, "random" has no generator, or the
            goal cannot be reached.
    """
    check_choice("tie_break", tie_break, get_args(TieBreak))
    check_cell("start", start, maze)
    if tie_break == "random" and rng is None:
        raise ValueError("tie_break='random' needs rng, a numpy Generator")
    cells, actions = [start], []
    for _ in range(maze.passages[0].size):
        choices = np.flatnonzero(optimal[:, cells[-1][0], cells[-1][1]])
        if choices.size == 0:
            break
        pick = 0 if rng is None or tie_break == "first" else int(rng.integers(choices.size))
        actions.append(int(choices[pick]))
        cells.append(maze.step(cells[-1], actions[-1]))
    return cells, actions
