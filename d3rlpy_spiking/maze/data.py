"""Expert trajectories as a d3rlpy dataset, and two test sets that share no trajectory with it.

*   `pairs`: the training mazes, with start and goal pairs that no training trajectory uses. Such a
    trajectory may still cross a cell from which a training trajectory went to the same goal; those
    steps are marked (`seen`), so that an accuracy can leave them out.
*   `mazes`: mazes that were never trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer
from numpy.typing import NDArray

from d3rlpy_spiking.maze.env import both_splits
from d3rlpy_spiking.maze.expert import (
    TieBreak,
    demonstrate,
    distances,
    optimal_from_distances,
)
from d3rlpy_spiking.maze.generate import ACTIONS, Cell, Maze
from d3rlpy_spiking.maze.observation import observe
from policies.config import check_count

# The return of every expert trajectory, and the target return to ask a transformer for.
TARGET_RETURN = 1.0


@dataclass(frozen=True, eq=False)
class Walk:
    """One expert trajectory.

    Args:
        maze: index of the maze in its set.
        cells: cells walked through, the goal last, n + 1.
        actions: actions taken, n.
        optimal: which actions begin a shortest path at each step, bool [n, 4].
    """

    maze: int
    cells: tuple[Cell, ...]
    actions: tuple[int, ...]
    optimal: NDArray[np.bool_]

    @property
    def goal(self) -> Cell:
        """The last cell."""
        return self.cells[-1]


@dataclass(frozen=True, eq=False)
class MazeSet:
    """Expert trajectories and their mazes.

    Args:
        name: "train", "pairs" or "mazes".
        mazes: the mazes that `Walk.maze` counts.
        walks: the trajectories.
        seen: for each walk, bool [n]: whether a training trajectory was at this cell of this maze
            on its way to this goal.
    """

    name: str
    mazes: tuple[Maze, ...]
    walks: tuple[Walk, ...]
    seen: tuple[NDArray[np.bool_], ...]

    @property
    def steps(self) -> int:
        """Number of expert actions."""
        return sum(len(walk.actions) for walk in self.walks)

    @property
    def seen_steps(self) -> int:
        """Number of steps at which a training trajectory was in the same state."""
        return int(sum(seen.sum() for seen in self.seen))


@dataclass(frozen=True, eq=False)
class MazeData:
    """A training dataset and its test sets, see `maze_dataset`."""

    dataset: ReplayBuffer
    train: MazeSet
    pairs: MazeSet
    mazes: MazeSet


def _walks(
    index: int,
    maze: Maze,
    pairs: NDArray[np.int64],
    tie_break: TieBreak,
    rng: np.random.Generator,
) -> list[Walk]:
    """Expert trajectories for (start, goal) cell numbers [P, 2]."""
    cells = np.stack(np.divmod(pairs, maze.shape[1]), axis=-1)
    optimal = optimal_from_distances(maze, distances(maze, cells[:, 1]))
    walks = []
    for (start, _), choices in zip(cells, optimal, strict=True):
        path, actions = demonstrate(
            maze, choices, (int(start[0]), int(start[1])), tie_break=tie_break, rng=rng
        )
        rows, columns = np.array(path[:-1]).T
        walks.append(Walk(index, tuple(path), tuple(actions), choices[:, rows, columns].T))
    return walks


class _Pairs:
    """The (start, goal) pairs of a maze in random order, each given out once."""

    def __init__(self, maze: Maze, rng: np.random.Generator) -> None:
        self._cells = maze.shape[0] * maze.shape[1]
        self._left = rng.permutation(self._cells * (self._cells - 1))

    def take(self, count: int) -> NDArray[np.int64]:
        """The next `count` pairs as cell numbers, [count, 2], start and goal distinct."""
        if count > len(self._left):
            raise ValueError(
                f"a maze of {self._cells} cells has too few start and goal pairs left "
                f"({len(self._left)}, wanted {count}); ask for fewer trajectories_per_maze or "
                "test_steps, or for larger mazes"
            )
        taken, self._left = self._left[:count], self._left[count:]
        start, rest = np.divmod(taken, self._cells - 1)
        # The goals are the cells but for the start.
        return np.stack([start, rest + (rest >= start)], axis=1)


def _test_walks(
    mazes: Sequence[Maze],
    pools: Sequence[_Pairs],
    steps: int,
    tie_break: TieBreak,
    rng: np.random.Generator,
) -> tuple[Walk, ...]:
    """As many trajectories from every maze until there are at least `steps` steps."""
    walks: list[Walk] = []
    while sum(len(walk.actions) for walk in walks) < steps:
        for index, (maze, pool) in enumerate(zip(mazes, pools, strict=True)):
            walks += _walks(index, maze, pool.take(1), tie_break, rng)
    return tuple(walks)


def _states(walk: Walk) -> list[tuple[int, Cell, Cell]]:
    return [(walk.maze, walk.goal, cell) for cell in walk.cells[:-1]]


def _maze_set(
    name: str, mazes: Sequence[Maze], walks: Sequence[Walk], trained: set[tuple[int, Cell, Cell]]
) -> MazeSet:
    seen = tuple(np.array([state in trained for state in _states(walk)]) for walk in walks)
    return MazeSet(name, tuple(mazes), tuple(walks), seen)


def _episode(maze: Maze, walk: Walk) -> Episode:
    rewards = np.zeros((len(walk.actions), 1), dtype=np.float32)
    rewards[-1] = TARGET_RETURN
    return Episode(
        observations=observe(maze, walk.goal, walk.cells[:-1]),
        actions=np.array(walk.actions, dtype=np.int64).reshape(-1, 1),
        rewards=rewards,
        terminated=True,
    )


def maze_dataset(
    *,
    n_mazes: int = 200,
    n_unseen: int = 50,
    size: int | tuple[int, int] = 15,
    braid: float = 1.0,
    trajectories_per_maze: int = 18,
    test_steps: int = 5000,
    tie_break: TieBreak = "first",
    seed: int = 0,
) -> MazeData:
    """Expert trajectories in random mazes, for offline imitation, with two test sets.

    The defaults make about 75,000 training steps (100 MB of uint8 observations). Rewards are 1 on
    the last step, else 0, so returns-to-go are 1 throughout and carry no distance.

    Args:
        n_mazes: training mazes.
        n_unseen: mazes never trained on.
        size: cells on a side, or (height, width).
        braid: probability that a dead end is opened.
        trajectories_per_maze: training trajectories of a maze, of distinct random start and goal.
        test_steps: steps that each test set has at least.
        tie_break: which of several shortest-path actions the expert takes: "first" in the order up,
            right, down, left, or "random".
        seed: seed of mazes, pairs and ties.

    Returns:
        The dataset (discrete actions, 4), its trajectories, and the test sets `pairs` and `mazes`.

    Raises:
        TypeError: if an argument is not of its type.
        ValueError: if one is out of range, or the mazes are too small for that many trajectories.
    """
    check_count("trajectories_per_maze", trajectories_per_maze)
    check_count("test_steps", test_steps)
    known, unseen = both_splits(n_mazes, n_unseen, size=size, braid=braid, seed=seed)
    # A stream of its own: the mazes draw from default_rng(seed).
    rng = np.random.default_rng([seed, 1])
    pools = [_Pairs(maze, rng) for maze in known]
    train = [
        walk
        for index, (maze, pool) in enumerate(zip(known, pools, strict=True))
        for walk in _walks(index, maze, pool.take(trajectories_per_maze), tie_break, rng)
    ]
    pairs = _test_walks(known, pools, test_steps, tie_break, rng)
    mazes = _test_walks(unseen, [_Pairs(m, rng) for m in unseen], test_steps, tie_break, rng)
    trained = {state for walk in train for state in _states(walk)}
    dataset = ReplayBuffer(
        InfiniteBuffer(),
        episodes=[_episode(known[walk.maze], walk) for walk in train],
        action_space=ActionSpace.DISCRETE,
        action_size=len(ACTIONS),
    )
    return MazeData(
        dataset=dataset,
        train=_maze_set("train", known, train, trained),
        pairs=_maze_set("pairs", known, pairs, trained),
        mazes=_maze_set("mazes", unseen, mazes, set()),
    )
