"""Shortest paths."""

from collections import deque

import numpy as np
import pytest

from d3rlpy_spiking.maze import Maze, demonstrate, distances, generate_maze, optimal_actions


def _slow_distances(maze: Maze, goal: tuple[int, int]) -> np.ndarray:
    found = np.full(maze.shape, -1)
    found[goal] = 0
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for action in range(4):
            behind = maze.step(cell, action)
            if found[behind] < 0:
                found[behind] = found[cell] + 1
                queue.append(behind)
    return found


@pytest.mark.parametrize("braid", [0.0, 1.0])
def test_distances_equal_a_plain_search(braid: float) -> None:
    maze = generate_maze((6, 9), braid=braid, seed=2)
    goals = np.array([(0, 0), (5, 8), (3, 4)])
    found = distances(maze, goals)
    for goal, to_goal in zip(goals, found, strict=True):
        np.testing.assert_array_equal(to_goal, _slow_distances(maze, (goal[0], goal[1])))


def test_optimal_actions_are_those_that_come_nearer() -> None:
    maze, goal = generate_maze(8, seed=5), (3, 3)
    to_goal, optimal = distances(maze, np.array([goal]))[0], optimal_actions(maze, goal)
    assert not optimal[:, 3, 3].any()
    for cell in np.ndindex(*maze.shape):
        for action in range(4):
            nearer = to_goal[maze.step(cell, action)] == to_goal[cell] - 1
            assert optimal[(action, *cell)] == nearer


@pytest.mark.parametrize("tie_break", ["first", "random"])
def test_demonstration_is_a_shortest_path(tie_break: str) -> None:
    maze, goal, start = generate_maze(10, seed=6), (9, 9), (0, 0)
    cells, actions = demonstrate(
        maze,
        optimal_actions(maze, goal),
        start,
        tie_break=tie_break,  # type: ignore[arg-type]
        rng=np.random.default_rng(0),
    )
    assert cells[0] == start
    assert cells[-1] == goal
    assert len(actions) == len(cells) - 1 == distances(maze, np.array([goal]))[0][start]


def test_ties_take_the_first_action_or_a_drawn_one() -> None:
    # All passages of a 2 x 2 maze are open: right or down from (0, 0) to (1, 1).
    optimal = optimal_actions(generate_maze(2), (1, 1))
    assert optimal[:, 0, 0].tolist() == [False, True, True, False]
    assert demonstrate(generate_maze(2), optimal, (0, 0))[1] == [1, 2]
    rng = np.random.default_rng(0)
    drawn = {
        demonstrate(generate_maze(2), optimal, (0, 0), tie_break="random", rng=rng)[1][0]
        for _ in range(20)
    }
    assert drawn == {1, 2}


def test_refusals() -> None:
    maze = generate_maze(3)
    with pytest.raises(ValueError, match=r"goal must be \(row, column\) inside"):
        optimal_actions(maze, (3, 0))
    optimal = optimal_actions(maze, (0, 0))
    with pytest.raises(ValueError, match="start must be"):
        demonstrate(maze, optimal, (0, -1))
    with pytest.raises(ValueError, match="tie_break must be one of"):
        demonstrate(maze, optimal, (1, 1), tie_break="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs rng"):
        demonstrate(maze, optimal, (1, 1), tie_break="random")
