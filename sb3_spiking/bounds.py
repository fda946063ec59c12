"""Bounds of what a features extractor gives, where they are known without looking at data."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from policies.actor import PopulationBody

# VecNormalize gives its clip as the bounds of every feature, and that is no range of theirs.
VEC_NORMALIZE_CLIP = 10.0


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
        torch.from_numpy(bound.astype(np.float32).reshape(-1)) for bound in (space.low, space.high)
    )
    if bool((high == VEC_NORMALIZE_CLIP).all() and (low == -VEC_NORMALIZE_CLIP).all()):
        return None
    # Some environments write the largest float where they mean infinity.
    limit = float(np.sqrt(np.finfo(np.float32).max))
    return low.masked_fill(low < -limit, -torch.inf), high.masked_fill(high > limit, torch.inf)


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
