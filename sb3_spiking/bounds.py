"""Bounds of what a features extractor gives, where they are known without looking at data."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
)
from torch import Tensor, nn

from policies.actor import PopulationBody

# Beyond this a bound stands for "any number": the largest float or integer, a round 1e9.
LARGEST = 1e4


Bounds = tuple[Tensor, Tensor]


def feature_bounds(space: spaces.Space[Any], extractor: nn.Module, features: int) -> Bounds | None:
    """Lower and upper bounds [features], infinite where there are none; None if nothing is known.

    Args:
        space: observation space.
        extractor: what maps its observations to features.
        features: number of features.
    """
    if isinstance(extractor, CombinedExtractor) and isinstance(space, spaces.Dict):
        return _joined(space, extractor)
    if isinstance(extractor, FlattenExtractor):
        return _flat(space, features)
    return None


def _flat(space: spaces.Space[Any], features: int) -> Bounds | None:
    if not isinstance(space, spaces.Box):  # one-hot vectors and bits
        return torch.zeros(features), torch.ones(features)
    if is_image_space(space):
        return None
    low, high = (
        torch.from_numpy(np.where(np.abs(bound) > LARGEST, limit, bound).reshape(-1)).float()
        for bound, limit in ((space.low.astype(float), -np.inf), (space.high.astype(float), np.inf))
    )
    return low, high


def _joined(space: spaces.Dict, extractor: CombinedExtractor) -> Bounds:
    """Each key's bounds side by side, as the extractor joins the features."""
    lows, highs = [], []
    for key, part in extractor.extractors.items():
        known = None
        if isinstance(part, nn.Flatten):
            size = get_flattened_obs_dim(space[key])
            known = _flat(space[key], size)
        else:
            assert isinstance(part, BaseFeaturesExtractor)  # a CNN for an image
            size = part.features_dim
        unknown = torch.full((size,), torch.inf)
        low, high = known if known is not None else (-unknown, unknown)
        lows.append(low)
        highs.append(high)
    return torch.cat(lows), torch.cat(highs)


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
