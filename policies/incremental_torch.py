"""Cached evaluation of a spiking transformer in its own modules; see `policies.incremental`."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from policies.attention import (
    PositionalAttention,
    SoftmaxAttention,
    StepAttention,
    TemporalAttention,
    split_heads,
)
from policies.transformer import fire


class TorchCache:
    """Keys and values of earlier tokens, and the network in evaluation mode, on any device.

    Args:
        transformer: a SpikingTransformer; it is copied.

    Raises:
        TypeError: if the mixing of tokens is none of `policies.attention`: what to keep is unknown.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = copy.deepcopy(transformer).eval().requires_grad_(False)
        self.steps = self.transformer.config.spike_steps
        self.mixes: list[Any] = []
        # of each block, NaN once a key's or value's membrane broke
        self.broken: list[Tensor | float] = []
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self.mixes = [_mixer(block.attention.mix) for block in self.transformer.blocks]
        self.broken = [0.0] * len(self.mixes)

    def append(self, token: Tensor, position: int) -> Tensor:
        """Output [D] for the token [D] at that position."""
        # [D] -> [T, 1, 1, D]
        x_seq = token.expand(self.steps, 1, 1, -1)
        for i, (block, mixer) in enumerate(zip(self.transformer.blocks, self.mixes, strict=True)):
            branch = block.attention
            spikes, fault = fire(branch.input_neuron, x_seq)
            q, fault_q = branch.query(spikes, 0.0, None)
            k, fault_k = branch.key(spikes, 0.0, None)
            v, fault_v = branch.value(spikes, 0.0, None)
            seen = self.broken[i] = self.broken[i] + fault + fault_k + fault_v
            spikes, fault_mix = fire(branch.mix_neuron, mixer(q, k, v, position))
            x_seq = x_seq + branch.out(spikes, 0.0, None) + (seen + fault_q + fault_mix)
            x_seq = x_seq + block.mlp(x_seq, 0.0, None)
        out: Tensor = self.transformer.norm(x_seq, 0.0, None).mean(dim=0)
        return out[0, 0]


class _Positional:
    def __init__(self, mix: PositionalAttention) -> None:
        self.weight, self.window = mix.weight, mix.window
        self.recent: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, position: int) -> Tensor:
        self.recent = [k * v, *self.recent[: self.window - 1]]
        # [window, T, 1, 1, D], the newest first as in the weights
        weights = self.weight[position, : len(self.recent)]
        mixed: Tensor = torch.tensordot(weights, torch.stack(self.recent), dims=1)
        return q * mixed


class _Linear:
    """SSSA, and TSSA with the spike steps of queries and keys among the features."""

    def __init__(self, mix: Any) -> None:
        self.heads, self.across = mix.num_heads, isinstance(mix, TemporalAttention)
        self.state: Tensor | float = 0.0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, position: int) -> Tensor:
        shape = q.shape
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))  # [T, 1, H, 1, d]
        if self.across:
            q, k, v = (x.permute(1, 2, 3, 0, 4).flatten(3) for x in (q, k, v))  # [1, H, 1, T * d]
        self.state = self.state + k.transpose(-1, -2) * v
        out: Tensor = q @ self.state
        if self.across:
            steps = shape[0]
            out = out.unflatten(3, (steps, -1)).permute(3, 0, 2, 1, 4).transpose(2, 3)
        return out.transpose(2, 3).flatten(3)


class _Softmax:
    def __init__(self, mix: SoftmaxAttention) -> None:
        self.heads = mix.num_heads
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, position: int) -> Tensor:
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        self.keys.append(k)
        self.values.append(v)
        keys, values = torch.cat(self.keys, dim=3), torch.cat(self.values, dim=3)
        scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])
        out: Tensor = torch.softmax(scores, dim=-1) @ values
        return out.transpose(2, 3).flatten(3)


def _mixer(mix: nn.Module) -> Any:
    kinds = {
        PositionalAttention: _Positional,
        SoftmaxAttention: _Softmax,
        StepAttention: _Linear,
        TemporalAttention: _Linear,
    }
    if type(mix) not in kinds or "forward" in mix.__dict__:
        raise TypeError(
            f"attention by {type(mix).__name__} cannot be cached: the mixing of tokens must be one "
            f"of {[kind.__name__ for kind in kinds]}; evaluate the whole context instead"
        )
    return kinds[type(mix)](mix)
