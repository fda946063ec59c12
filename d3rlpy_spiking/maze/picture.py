"""Pictures of a maze, its goal and a path, as pixels or as text."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from d3rlpy_spiking.maze.generate import MOVES, Cell, Maze

# RGB; start and goal differ in brightness as well as in colour.
_FLOOR, _WALL, _PATH = (255, 255, 255), (40, 40, 40), (150, 190, 230)
_START, _GOAL, _AGENT = (0, 90, 181), (230, 120, 0), (120, 0, 120)


def _corridors(maze: Maze) -> NDArray[np.bool_]:
    """Open places of a grid with walls between the cells, bool [2H + 1, 2W + 1]."""
    height, width = maze.shape
    open_places = np.zeros((2 * height + 1, 2 * width + 1), dtype=np.bool_)
    open_places[1::2, 1::2] = True
    for action, (row, column) in enumerate(MOVES):
        rows, columns = np.nonzero(maze.passages[action])
        open_places[2 * rows + 1 + row, 2 * columns + 1 + column] = True
    return open_places


def _path_places(path: Sequence[Cell]) -> list[Cell]:
    """Places that a path covers in the grid of `_corridors`, those between its cells included."""
    places = [(2 * row + 1, 2 * column + 1) for row, column in path]
    between = [((a[0] + b[0]) // 2, (a[1] + b[1]) // 2) for a, b in pairwise(places)]
    return places + between


def picture(maze: Maze, path: Sequence[Cell], goal: Cell, scale: int = 8) -> NDArray[np.uint8]:
    """RGB picture: start dark blue, goal orange, the path light blue, the agent purple.

    Args:
        maze: the maze.
        path: cells walked through, from the start to the agent.
        goal: the goal.
        scale: pixels of a place; a maze is 2H + 1 by 2W + 1 places.

    Returns:
        uint8 [(2H + 1) scale, (2W + 1) scale, 3].
    """
    image = np.array([_WALL, _FLOOR], dtype=np.uint8)[_corridors(maze).astype(np.int64)]
    for place in _path_places(path):
        image[place] = _PATH
    image[2 * goal[0] + 1, 2 * goal[1] + 1] = _GOAL
    image[2 * path[-1][0] + 1, 2 * path[-1][1] + 1] = _AGENT
    image[2 * path[0][0] + 1, 2 * path[0][1] + 1] = _START
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def ansi(maze: Maze, path: Sequence[Cell], goal: Cell) -> str:
    """Text picture: # wall, S start, G goal, A agent, . the path; arguments as of `picture`."""
    places = np.where(_corridors(maze), " ", "#")
    for place in _path_places(path):
        places[place] = "."
    places[2 * goal[0] + 1, 2 * goal[1] + 1] = "G"
    places[2 * path[-1][0] + 1, 2 * path[-1][1] + 1] = "A"
    places[2 * path[0][0] + 1, 2 * path[0][1] + 1] = "S"
    return "\n".join("".join(row) for row in places)
