"""Rollouts whose statistics are those of all ranks together."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from policies.distributed import gather_objects, sum_over_ranks, world_size
from sb3_spiking.distributed.steps import SharedSteps

# Stable-Baselines3 adds this to the deviation of advantages.
EPS = 1e-8


def smaller_buffer(buffer: RolloutBuffer, parts: int) -> RolloutBuffer:
    """An empty buffer of the same kind, for one part of the steps."""
    smaller = copy.copy(buffer)
    smaller.buffer_size = buffer.buffer_size // parts
    if hasattr(smaller, "hidden_state_shape"):  # RecurrentPPO's: steps come first
        smaller.hidden_state_shape = (smaller.buffer_size, *smaller.hidden_state_shape[1:])
    smaller.reset()
    return smaller


class SharedRollouts:
    """Stands in for a rollout buffer while a model trains.

    Gives the same minibatches; advantages are normalized by the mean and deviation of all ranks'
    parts of the minibatch, and the weights of masked losses are noted.

    Args:
        buffer: the rollout buffer.
        steps: where to note weights.
        normalize: whether to normalize advantages.
    """

    def __init__(self, buffer: Any, steps: SharedSteps, normalize: bool) -> None:
        self._buffer = buffer
        self._steps = steps
        self._normalize = normalize

    def __getattr__(self, name: str) -> Any:
        """Everything else is the buffer's."""
        return getattr(self._buffer, name)

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        """Minibatches, as the buffer's."""
        for data in self._buffer.get(batch_size):
            # RecurrentPPO pads its sequences and takes means over what is not padding.
            mask = getattr(data, "mask", None)
            valid = None if mask is None else mask > 1e-8
            if valid is not None:
                self._steps.weight = float(valid.sum())
            if self._normalize:
                data = data._replace(advantages=_normalized(data.advantages, valid))
            yield data


def _normalized(advantages: Tensor, valid: Tensor | None) -> Tensor:
    """Advantages by mean and unbiased deviation over all ranks; a single one stays as it is."""
    used = (advantages if valid is None else advantages[valid]).double()
    sums = sum_over_ranks(torch.stack([used.sum(), used.new_tensor(used.numel())]))
    total, count = float(sums[0]), float(sums[1])
    if count <= 1.0:
        return advantages
    mean = total / count
    squares = float(sum_over_ranks((used - mean).square().sum()))
    deviation = (squares / (count - 1.0)) ** 0.5
    normalized: Tensor = (advantages - mean) / (deviation + EPS)
    return normalized


class SharedLimit(float):
    """PPO's target_kl: compared with the mean divergence over ranks, which agree when to stop.

    Stable-Baselines3 asks, as its only use, whether `kl > 1.5 * target_kl`.
    """

    # NumPy's numbers on the left leave the comparison to this class.
    __array_ufunc__ = None

    def __rmul__(self, factor: float) -> "SharedLimit":
        """The limit times a number."""
        return SharedLimit(factor * float(self))

    def __lt__(self, divergence: Any) -> bool:
        """Whether the mean of all ranks' divergences is above the limit."""
        parts = gather_objects(float(divergence))
        return bool(sum(parts) / world_size() > float(self))

    # Python compares and hashes floats by value.
    __hash__ = float.__hash__
