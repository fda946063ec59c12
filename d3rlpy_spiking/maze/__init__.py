"""Imitation of shortest paths through random mazes, the task of STRL, for d3rlpy's transformers.

import d3rlpy
from d3rlpy_spiking.maze import WavefrontEncoderFactory, accuracy, maze_dataset

data = maze_dataset(seed=0)
algo = d3rlpy.algos.DiscreteDecisionTransformerConfig(
    encoder_factory=WavefrontEncoderFactory(feature_size=128)
).create()
algo.fit(data.dataset, n_steps=2000, n_steps_per_epoch=500)
print(accuracy(algo, data.mazes))

STRL's own mazes, split and code are not published: mazes, expert and test sets are ours.
Importing this registers the environment `SpikingMaze-v0`.
"""

from d3rlpy_spiking.maze.data import TARGET_RETURN, MazeData, MazeSet, Walk, maze_dataset
from d3rlpy_spiking.maze.env import ENV_ID, SpikingMazeEnv, register, split_mazes
from d3rlpy_spiking.maze.evaluate import (
    Accuracy,
    LeakError,
    Rollouts,
    accuracy,
    leak_check,
    predict,
    rollout_success,
)
from d3rlpy_spiking.maze.expert import demonstrate, distances, optimal_actions
from d3rlpy_spiking.maze.generate import ACTIONS, MOVES, Maze, generate_maze, generate_mazes
from d3rlpy_spiking.maze.observation import observe
from d3rlpy_spiking.maze.picture import ansi, picture
from d3rlpy_spiking.maze.planner import WavefrontEncoderFactory
from d3rlpy_spiking.maze.windows import Moment

register()

__all__ = [
    "ACTIONS",
    "ENV_ID",
    "MOVES",
    "TARGET_RETURN",
    "Accuracy",
    "LeakError",
    "Maze",
    "MazeData",
    "MazeSet",
    "Moment",
    "Rollouts",
    "SpikingMazeEnv",
    "Walk",
    "WavefrontEncoderFactory",
    "accuracy",
    "ansi",
    "demonstrate",
    "distances",
    "generate_maze",
    "generate_mazes",
    "leak_check",
    "maze_dataset",
    "observe",
    "optimal_actions",
    "picture",
    "predict",
    "register",
    "rollout_success",
    "split_mazes",
]
