"""Inputs of a discrete d3rlpy transformer for many steps at once.

d3rlpy predicts one step at a time through `as_stateful_wrapper`. Here the same inputs are built for
a batch: the last `context_size` steps, zeros before an episode's start, timesteps from 1, the
actions taken before the step to predict and 0 in the place of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.torch_utility import unwrap_ddp_model
from torch import Tensor, nn

from d3rlpy_spiking.maze.generate import Cell, Maze
from d3rlpy_spiking.maze.observation import PLANES, observe


@dataclass(frozen=True)
class Moment:
    """A step to predict: what was walked until now.

    Args:
        maze: the maze.
        goal: the goal.
        cells: cells so far, the present one last, n + 1.
        actions: actions so far, n.
    """

    maze: Maze
    goal: Cell
    cells: Sequence[Cell]
    actions: Sequence[int]


@dataclass(frozen=True)
class Windows:
    """Inputs of the torch module: L = context_size steps, the one to predict last.

    Args:
        observations: [B, L, 6, H, W].
        actions: [B, L, 1]; the last is a placeholder.
        returns_to_go: [B, L, 1].
        timesteps: [B, L]; 1 at an episode's start, 0 before it.
        masks: [B, L]; 1 at steps of the episode, 0 before it.
    """

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    timesteps: Tensor
    masks: Tensor


def transformer_of(algo: Any) -> nn.Module:
    """The torch module of a built d3rlpy transformer with discrete actions, without its DDP shell.

    Raises:
        TypeError: if algo is no transformer algorithm with discrete actions.
        ValueError: if it is not built.
    """
    name = type(algo).__name__
    get_action_type = getattr(algo, "get_action_type", None)
    if not hasattr(algo, "as_stateful_wrapper") or get_action_type is None:
        raise TypeError(f"algo must be a d3rlpy transformer algorithm, got {name}")
    if get_action_type() != ActionSpace.DISCRETE:
        raise TypeError(f"algo must have discrete actions, got {name}; use a discrete algorithm")
    if algo.impl is None:
        raise ValueError(f"algo ({name}) is not built; call fit, or create_impl((6, H, W), 4)")
    module: nn.Module = unwrap_ddp_model(algo.impl.modules.transformer)
    return module


def make_windows(algo: Any, moments: Sequence[Moment], target_return: float) -> Windows:
    """Inputs for `moments`, as d3rlpy's stateful wrapper would build them, scalers included."""
    length, config = algo.config.context_size, algo.config
    shape = (len(moments), length)
    first = moments[0].maze.shape
    observations = np.zeros((*shape, PLANES, *first), dtype=np.uint8)
    actions = np.zeros((*shape, 1), dtype=np.float32)
    returns_to_go = np.zeros((*shape, 1), dtype=np.float32)
    timesteps = np.zeros(shape, dtype=np.int64)
    masks = np.zeros(shape, dtype=np.float32)
    for row, moment in enumerate(moments):
        end = len(moment.cells)
        start = max(end - length, 0)
        filled = slice(length - (end - start), length)
        observations[row, filled] = observe(moment.maze, moment.goal, moment.cells[start:])
        actions[row, filled, 0] = [*moment.actions[start:], 0]
        # No reward comes before the goal, so what is left of the return is all of it.
        returns_to_go[row, filled] = target_return
        timesteps[row, filled] = np.minimum(np.arange(start, end) + 1, config.max_timestep)
        masks[row, filled] = 1.0
    seen, rest = torch.from_numpy(observations).float(), torch.from_numpy(returns_to_go)
    if config.observation_scaler is not None:
        seen = config.observation_scaler.transform(seen.flatten(0, 1)).view_as(seen)
    if config.reward_scaler is not None:
        rest = config.reward_scaler.transform(rest.flatten(0, 1)).view_as(rest)
    device = next(transformer_of(algo).parameters()).device
    return Windows(
        observations=seen.to(device),
        actions=torch.from_numpy(actions).to(device),
        returns_to_go=rest.to(device),
        timesteps=torch.from_numpy(timesteps).to(device),
        masks=torch.from_numpy(masks).to(device),
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is restored after."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def window_logits(module: nn.Module, windows: Windows) -> Tensor:
    """Logits of every step of the windows, [B, L, 4]; call it inside `evaluating`."""
    logits: Tensor = module(
        windows.observations,
        windows.actions,
        windows.returns_to_go,
        windows.timesteps,
        1 - windows.masks,
    )[1]
    return logits
