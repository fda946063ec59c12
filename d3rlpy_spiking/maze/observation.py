"""What an agent sees of a maze: the maze, the goal and itself; no path, no distance.

Observations are uint8 [6, H, W] with values 0 and 1:

    plane 0-3   open passages up, right, down, left of every cell
    plane 4     1 at the goal
    plane 5     1 at the agent

uint8 because d3rlpy keeps whole episodes in memory (1,350 bytes a step for 15 x 15 cells); it turns
them into float tensors of the same values itself.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d3rlpy_spiking.maze.generate import MOVES, Cell, Maze

PASSAGE_PLANES = len(MOVES)
GOAL_PLANE = PASSAGE_PLANES
AGENT_PLANE = PASSAGE_PLANES + 1
PLANES = PASSAGE_PLANES + 2


def observe(maze: Maze, goal: Cell, cells: Sequence[Cell]) -> NDArray[np.uint8]:
    """Observations of an agent at each of `cells`, uint8 [N, 6, H, W]."""
    observations = np.zeros((len(cells), PLANES, *maze.shape), dtype=np.uint8)
    observations[:, :PASSAGE_PLANES] = maze.passages
    observations[:, GOAL_PLANE, goal[0], goal[1]] = 1
    rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    observations[np.arange(len(cells)), AGENT_PLANE, rows, columns] = 1
    return observations
