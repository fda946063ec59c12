"""Small mazes and small algorithms."""

from typing import Any

import d3rlpy
import torch
from torch import nn

from d3rlpy_spiking.maze import MazeData, WavefrontEncoderFactory, maze_dataset


def small_data(**changes: Any) -> MazeData:
    settings: dict[str, Any] = {
        "n_mazes": 6,
        "n_unseen": 3,
        "size": 5,
        "trajectories_per_maze": 12,
        "test_steps": 150,
        "seed": 2,
    }
    return maze_dataset(**{**settings, **changes})


def small_transformer(seed: int = 0, **changes: Any) -> Any:
    """A built DiscreteDecisionTransformer for 5 x 5 mazes, with logits that differ widely."""
    settings: dict[str, Any] = {
        "encoder_factory": WavefrontEncoderFactory(feature_size=16, iterations=12),
        "context_size": 6,
        "num_heads": 2,
        "num_layers": 2,
        "batch_size": 16,
    }
    torch.manual_seed(seed)
    config = d3rlpy.algos.DiscreteDecisionTransformerConfig(**{**settings, **changes})
    algo = config.create()
    algo.create_impl((6, 5, 5), 4)
    # d3rlpy starts with weights so small that every prediction is nearly the same.
    for parameter in transformer(algo).parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return algo


def transformer(algo: Any) -> nn.Module:
    module: nn.Module = algo.impl.modules.transformer
    return module
