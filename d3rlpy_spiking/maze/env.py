"""The maze as a Gymnasium environment, `SpikingMaze-v0`."""

from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from d3rlpy_spiking.maze.expert import check_cell, distances
from d3rlpy_spiking.maze.generate import ACTIONS, Cell, Maze, generate_mazes
from d3rlpy_spiking.maze.observation import PLANES, observe
from d3rlpy_spiking.maze.picture import ansi, picture
from policies.config import check_choice, check_count

ENV_ID = "SpikingMaze-v0"

# Which mazes: "train" the first n_mazes of a seed, "mazes" the n_unseen after them.
Split = Literal["train", "mazes"]


def split_mazes(
    split: Split,
    *,
    n_mazes: int = 200,
    n_unseen: int = 50,
    size: int | tuple[int, int] = 15,
    braid: float = 1.0,
    seed: int = 0,
) -> list[Maze]:
    """The training mazes ("train") or the never trained ones ("mazes") of a seed; all distinct.

    The environment and `maze_dataset` make their mazes with this, so equal arguments mean equal
    mazes.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if split is unknown or an argument is out of range.
    """
    check_choice("split", split, get_args(Split))
    known, unseen = both_splits(n_mazes, n_unseen, size=size, braid=braid, seed=seed)
    return known if split == "train" else unseen


def both_splits(
    n_mazes: int, n_unseen: int, *, size: int | tuple[int, int], braid: float, seed: int
) -> tuple[list[Maze], list[Maze]]:
    """The training mazes and those never trained on; see `split_mazes`."""
    check_count("n_mazes", n_mazes)
    check_count("n_unseen", n_unseen)
    mazes = generate_mazes(n_mazes + n_unseen, size, braid=braid, seed=seed)
    return mazes[:n_mazes], mazes[n_mazes:]


class SpikingMazeEnv(gym.Env[NDArray[np.uint8], np.int64]):
    """Walk from a random start to a random goal of a random maze.

    Observation: uint8 [6, H, W] of 0 and 1: open passages up, right, down, left, then the goal,
    then the agent; see `observation.py`. No path and no distance.
    Action: 0 up, 1 right, 2 down, 3 left; a move into a wall leaves the agent where it is.
    Reward: 1 on reaching the goal, else 0. So the return of every success is 1, and a
    return-to-go of 1 tells a transformer nothing about the way or its length.
    End: terminated at the goal, truncated after `max_steps` steps.

    Args:
        seed: the mazes' seed; `reset(seed=...)` is for the draws of maze, start and goal.
        n_mazes: number of training mazes.
        n_unseen: number of mazes never trained on.
        size: cells on a side, or (height, width).
        braid: probability that a dead end is opened.
        split: "train" or "mazes", see `split_mazes`.
        max_steps: steps until truncation; None for H * W, which no shortest path exceeds.
        render_mode: None, "rgb_array" or "ansi".

    Raises:
        TypeError: if an argument is not of its type.
        ValueError: if one is out of range.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 8}  # noqa: RUF012  # Gymnasium's

    def __init__(
        self,
        seed: int = 0,
        n_mazes: int = 200,
        n_unseen: int = 50,
        size: int | tuple[int, int] = 15,
        braid: float = 1.0,
        split: Split = "train",
        max_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.mazes = split_mazes(
            split, n_mazes=n_mazes, n_unseen=n_unseen, size=size, braid=braid, seed=seed
        )
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        if max_steps is not None:
            check_count("max_steps", max_steps)
        self.render_mode = render_mode
        shape = self.mazes[0].shape
        self.max_steps = default_max_steps(shape) if max_steps is None else max_steps
        self.observation_space = spaces.Box(0, 1, (PLANES, *shape), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._episode: tuple[int, Cell] | None = None
        self._path: list[Cell] = []

    @property
    def maze(self) -> Maze:
        """The maze of this episode."""
        return self.mazes[self._require_episode()[0]]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seed of the draws.
            options: any of "maze" (index), "start" and "goal" (row, column); what is missing is
                drawn, start and goal distinct.

        Returns:
            The observation; and info with "maze", "start", "goal" and "shortest", the shortest
            path's length in steps, which is for measuring and no part of the observation.

        Raises:
            ValueError: if an option is unknown, out of range, or start equals goal.
        """
        super().reset(seed=seed)
        options = {} if options is None else options
        unknown = set(options) - {"maze", "start", "goal"}
        if unknown:
            raise ValueError(f"options must be among maze, start and goal, got {sorted(unknown)}")
        index = self._draw_maze(options.get("maze"))
        start, goal = self._draw_cells(index, options.get("start"), options.get("goal"))
        self._episode = index, goal
        self._path = [start]
        shortest = int(distances(self.mazes[index], np.array([goal]))[0][start])
        return self._observe(), {"maze": index, "start": start, "goal": goal, "shortest": shortest}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move; see the class for observation, reward and end.

        Raises:
            ValueError: if the action is none of 0 to 3, or `reset` was not called.
        """
        index, goal = self._require_episode()
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"action must be in 0 to {len(ACTIONS) - 1}, got {action!r}")
        self._path.append(self.mazes[index].step(self._path[-1], int(action)))
        terminated = self._path[-1] == goal
        truncated = not terminated and len(self._path) - 1 >= self.max_steps
        return self._observe(), float(terminated), terminated, truncated, {}

    def render(self) -> Any:
        """The maze with start, goal and the path taken: RGB [h, w, 3] or text, by `render_mode`."""
        if self.render_mode is None:
            return None
        index, goal = self._require_episode()
        draw = picture if self.render_mode == "rgb_array" else ansi
        return draw(self.mazes[index], self._path, goal)

    def _require_episode(self) -> tuple[int, Cell]:
        if self._episode is None:
            raise ValueError("there is no episode yet; call reset() first")
        return self._episode

    def _observe(self) -> NDArray[np.uint8]:
        index, goal = self._require_episode()
        observation: NDArray[np.uint8] = observe(self.mazes[index], goal, self._path[-1:])[0]
        return observation

    def _draw_maze(self, index: object) -> int:
        if index is None:
            return int(self.np_random.integers(len(self.mazes)))
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self.mazes):
            raise ValueError(
                f"options['maze'] must be an index in 0 to {len(self.mazes) - 1}, got {index!r}"
            )
        return int(index)

    def _draw_cells(self, index: int, start: Any, goal: Any) -> tuple[Cell, Cell]:
        """Start and goal; a missing one is drawn among the cells that the other leaves."""
        maze = self.mazes[index]
        for name, cell in (("start", start), ("goal", goal)):
            if cell is not None:
                check_cell(f"options[{name!r}]", cell, maze)
        taken: set[Cell] = {(int(c[0]), int(c[1])) for c in (start, goal) if c is not None}
        if start is not None and goal is not None and len(taken) == 1:
            raise ValueError(f"options 'start' and 'goal' must differ, got {start!r} twice")
        free = [cell for cell in np.ndindex(*maze.shape) if cell not in taken]
        first, second = self.np_random.choice(len(free), size=2, replace=False)
        found = [
            free[drawn] if cell is None else cell
            for cell, drawn in ((start, first), (goal, second))
        ]
        return (int(found[0][0]), int(found[0][1])), (int(found[1][0]), int(found[1][1]))


def default_max_steps(shape: tuple[int, int]) -> int:
    """Steps until truncation, H * W: a shortest path enters no cell twice."""
    return shape[0] * shape[1]


def register() -> None:
    """Make `gymnasium.make("SpikingMaze-v0")` work; may be called more than once."""
    if ENV_ID not in gym.registry:
        gym.register(ENV_ID, entry_point="d3rlpy_spiking.maze.env:SpikingMazeEnv")
