"""Procedural mazes: a random spanning tree with loops, everything from one seed.

A maze of H x W cells starts as a random depth-first spanning tree (every cell reachable, exactly
one path between any two). Then every dead end, a cell with one passage, is opened towards a random
closed neighbour with probability `braid`; the loops that this makes give a planner a choice.
`braid=0` keeps the tree, `braid=1` (the default) leaves no dead end.

STRL does not publish its mazes; this generator is ours and not a copy of theirs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.config import check_count, check_range

# Actions and passage planes, in this order: up, right, down, left; (row, column) steps.
MOVES: tuple[tuple[int, int], ...] = ((-1, 0), (0, 1), (1, 0), (0, -1))
ACTIONS: tuple[str, ...] = ("up", "right", "down", "left")

Cell = tuple[int, int]

# Draws of a maze in a row that may repeat earlier ones before a set of distinct mazes is given up.
_MAX_REPEATS = 1000


def opposite(action: int) -> int:
    """The action that undoes `action`."""
    return (action + 2) % 4


def neighbours(values: NDArray[np.generic], action: int, fill: object) -> NDArray[np.generic]:
    """Each cell's neighbour in direction `action`, of values [..., H, W]; `fill` beyond the border.

    The result has the shape and dtype of `values`.
    """
    row, column = MOVES[action]
    shifted = np.full_like(values, fill)
    height, width = values.shape[-2:]
    to = (slice(max(-row, 0), height - max(row, 0)), slice(max(-column, 0), width - max(column, 0)))
    of = (slice(max(row, 0), height - max(-row, 0)), slice(max(column, 0), width - max(-column, 0)))
    shifted[(..., *to)] = values[(..., *of)]
    return shifted


@dataclass(frozen=True, eq=False)
class Maze:
    """A maze as its open passages.

    Args:
        passages: bool [4, H, W]; `passages[a, r, c]` says whether action a (up, right, down, left)
            leads out of cell (r, c). Both sides of a passage must agree, the border is closed.

    Raises:
        ValueError: if the passages are not such an array.
    """

    passages: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Check shape, dtype, border and that both sides of every passage agree."""
        passages = np.array(self.passages)
        if passages.dtype != np.bool_ or passages.ndim != 3 or passages.shape[0] != len(MOVES):
            raise ValueError(
                "passages must be a bool array [4, H, W] (up, right, down, left), "
                f"got {passages.dtype} {passages.shape}"
            )
        for action, name in enumerate(ACTIONS):
            other_side = neighbours(passages[opposite(action)], action, False)
            if not np.array_equal(passages[action], other_side):
                raise ValueError(
                    f"passages[{action}] ({name}) must equal the {ACTIONS[opposite(action)]} "
                    "passages of the neighbours and be closed at the border"
                )
        passages.setflags(write=False)
        object.__setattr__(self, "passages", passages)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in cells."""
        return int(self.passages.shape[1]), int(self.passages.shape[2])

    def key(self) -> tuple[tuple[int, int], bytes]:
        """Equal for equal mazes and only for them; hashable."""
        return self.shape, np.packbits(self.passages).tobytes()

    def step(self, cell: Cell, action: int) -> Cell:
        """The cell that `action` leads to; the same cell where a wall is in the way."""
        if not self.passages[action, cell[0], cell[1]]:
            return cell
        return cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]


def check_maze_size(size: object) -> tuple[int, int]:
    """Height and width from `size`: a number of cells, or (height, width), each at least 2.

    Raises:
        TypeError: if a length is not an integer.
        ValueError: if a length is below 2.
    """
    lengths = size if isinstance(size, tuple) else (size, size)
    if len(lengths) != 2:
        raise ValueError(f"size must be a number of cells or (height, width), got {size!r}")
    for length in lengths:
        check_count("size", length)
        if length < 2:
            raise ValueError(f"size must be at least 2 cells, got {size!r}")
    return int(lengths[0]), int(lengths[1])


def _inside(cell: Cell, shape: tuple[int, int]) -> Iterator[int]:
    """The actions that stay on the grid."""
    for action, (row, column) in enumerate(MOVES):
        if 0 <= cell[0] + row < shape[0] and 0 <= cell[1] + column < shape[1]:
            yield action


def _open(passages: NDArray[np.bool_], cell: Cell, action: int) -> Cell:
    """Open the passage on both sides; returns the cell behind it."""
    behind = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
    passages[action, cell[0], cell[1]] = True
    passages[opposite(action), behind[0], behind[1]] = True
    return behind


def _spanning_tree(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Passages [4, H, W] of a random depth-first spanning tree."""
    passages = np.zeros((len(MOVES), *shape), dtype=np.bool_)
    visited = np.zeros(shape, dtype=np.bool_)
    start = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
    visited[start] = True
    path = [start]
    while path:
        row, column = path[-1]
        fresh = [
            action
            for action in _inside((row, column), shape)
            if not visited[row + MOVES[action][0], column + MOVES[action][1]]
        ]
        if not fresh:
            path.pop()
            continue
        cell = _open(passages, (row, column), fresh[int(rng.integers(len(fresh)))])
        visited[cell] = True
        path.append(cell)
    return passages


def _braid(passages: NDArray[np.bool_], braid: float, rng: np.random.Generator) -> None:
    """Open each dead end, in random order, with probability `braid`; in place."""
    shape = int(passages.shape[1]), int(passages.shape[2])
    dead_ends = np.argwhere(passages.sum(axis=0) == 1)
    for row, column in rng.permutation(dead_ends):
        cell = int(row), int(column)
        # An earlier opening may have ended here.
        if passages[:, cell[0], cell[1]].sum() > 1 or rng.random() >= braid:
            continue
        closed = [a for a in _inside(cell, shape) if not passages[a, cell[0], cell[1]]]
        _open(passages, cell, closed[int(rng.integers(len(closed)))])


def generate_maze(
    size: int | tuple[int, int] = 15,
    *,
    braid: float = 1.0,
    seed: int | np.random.Generator = 0,
) -> Maze:
    """A random maze in which every cell reaches every other.

    Args:
        size: cells on a side, or (height, width); at least 2 each.
        braid: probability that a dead end is opened, in [0, 1]; 1 leaves none.
        seed: a seed, or a generator to draw from.

    Returns:
        The maze.

    Raises:
        TypeError: if size or braid is not a number.
        ValueError: if size or braid is out of range.
    """
    shape = check_maze_size(size)
    check_range("braid", braid, 0.0, 1.0)
    rng = np.random.default_rng(seed)
    passages = _spanning_tree(shape, rng)
    _braid(passages, braid, rng)
    return Maze(passages)


def generate_mazes(
    n_mazes: int,
    size: int | tuple[int, int] = 15,
    *,
    braid: float = 1.0,
    seed: int | np.random.Generator = 0,
) -> list[Maze]:
    """`n_mazes` mazes that all differ; arguments as of `generate_maze`.

    Raises:
        TypeError: if n_mazes, size or braid is not a number.
        ValueError: if one is out of range, or mazes of this size are too few to differ.
    """
    check_count("n_mazes", n_mazes)
    rng = np.random.default_rng(seed)
    mazes: dict[tuple[tuple[int, int], bytes], Maze] = {}
    repeats = 0
    while len(mazes) < n_mazes:
        maze = generate_maze(size, braid=braid, seed=rng)
        repeats = repeats + 1 if maze.key() in mazes else 0
        if repeats > _MAX_REPEATS:
            raise ValueError(
                f"n_mazes={n_mazes} distinct mazes of size {size} were not found, only "
                f"{len(mazes)}; ask for fewer mazes or for larger ones"
            )
        mazes[maze.key()] = maze
    return list(mazes.values())
