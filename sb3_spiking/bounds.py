"""Bounds of what a features extractor gives, where they are known without looking at data."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from policies.actor import PopulationBody

# Beyond this a bound stands for "any number": the largest float or integer, a round 1e9.
LARGEST = 1e4


def feature_bounds(
    space: spaces.Space[Any], extractor: nn.Module, features: int
) -> tuple[Tensor, Tensor] | None:
    """Lower and upper bounds [features], infinite where there are none; None if nothing is known.

    Args:
        space: observation space.
        extractor: what maps its observations to features.
        features: number of features.
    """
    if not isinstance(extractor, FlattenExtractor):
        return None
    if not isinstance(space, spaces.Box):  # one-hot vectors and bits
        return torch.zeros(features), torch.ones(features)
    if is_image_space(space):
        return None
    low, high = (
        torch.from_numpy(np.where(np.abs(bound) > LARGEST, limit, bound).reshape(-1)).float()
        for bound, limit in ((space.low.astype(float), -np.inf), (space.high.astype(float), np.inf))
    )
    return low, high


def fix_bounds(body: PopulationBody, space: spaces.Space[Any], extractor: nn.Module) -> None:
    """Let a network's normalizer use the bounds of its features, if it has one and they are known.

    Args:
        body: a network that sees the features and nothing else.
        space: observation space.
        extractor: what maps its observations to features.
    """
    bounds = feature_bounds(space, extractor, body.encoder.obs_dim)
    if bounds is not None and body.normalizer is not None:
        body.normalizer.fix_bounds(*bounds)
