"""Mazes: structure, seeds, refusals."""

import numpy as np
import pytest

from d3rlpy_spiking.maze import Maze, generate_maze, generate_mazes
from d3rlpy_spiking.maze.expert import distances
from d3rlpy_spiking.maze.generate import MOVES, opposite


@pytest.mark.parametrize("size", [2, 3, 15, (4, 7)])
@pytest.mark.parametrize("braid", [0.0, 0.5, 1.0])
def test_every_cell_reaches_every_other(size: int | tuple[int, int], braid: float) -> None:
    for seed in range(5):
        maze = generate_maze(size, braid=braid, seed=seed)
        assert (distances(maze, np.array([(0, 0)])) >= 0).all()


def test_both_sides_of_a_passage_agree_and_the_border_is_closed() -> None:
    passages = generate_maze(9, seed=3).passages
    for action, (row, column) in enumerate(MOVES):
        for r, c in np.argwhere(passages[action]):
            assert 0 <= r + row < 9
            assert 0 <= c + column < 9
            assert passages[opposite(action), r + row, c + column]


def test_tree_without_braid_and_no_dead_end_with_it() -> None:
    tree = generate_maze(15, braid=0.0, seed=1).passages
    assert tree.sum() == 2 * (15 * 15 - 1)
    loops = generate_maze(15, braid=1.0, seed=1).passages
    assert loops.sum(axis=0).min() >= 2
    assert (loops >= tree).all()


def test_one_seed_gives_one_set_of_distinct_mazes() -> None:
    first, again = generate_mazes(30, 5, seed=4), generate_mazes(30, 5, seed=4)
    assert [maze.key() for maze in first] == [maze.key() for maze in again]
    assert len({maze.key() for maze in first}) == 30
    assert first[0].key() != generate_maze(5, seed=5).key()


def test_step_moves_through_passages_only() -> None:
    maze = generate_maze(2, braid=0.0, seed=0)
    for action, (row, column) in enumerate(MOVES):
        expected = (row, column) if maze.passages[action, 0, 0] else (0, 0)
        assert maze.step((0, 0), action) == expected


def test_passages_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        generate_maze(3).passages[0, 0, 0] = True


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        (np.zeros((3, 4, 4), dtype=np.bool_), r"\[4, H, W\]"),
        (np.zeros((4, 4, 4)), "float64"),
        (np.ones((4, 4, 4), dtype=np.bool_), "closed at the border"),
        (np.arange(16).reshape(4, 2, 2) == 1 + 4, "neighbours"),
    ],
)
def test_maze_refuses_other_arrays(passages: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Maze(passages)


def test_refusals_name_the_argument() -> None:
    with pytest.raises(ValueError, match="size must be at least 2"):
        generate_maze(1)
    with pytest.raises(TypeError, match="size must be an integer"):
        generate_maze(3.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="braid"):
        generate_maze(3, braid=1.5)
    with pytest.raises(ValueError, match="only 1"):
        generate_mazes(2, 2)
