"""Cached evaluation of a spiking transformer in its own modules; see `policies.incremental`."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from policies.attention import PositionalAttention, SoftmaxAttention, TemporalAttention, split_heads


class TorchCache:
    """Keys and values of earlier tokens, and the network in evaluation mode, on any device.

    Args:
        transformer: a SpikingTransformer; it is copied.
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = copy.deepcopy(transformer).eval().requires_grad_(False)
        self.steps = self.transformer.config.spike_steps
        self.mixes: list[Any] = []
        self.reset()

    def reset(self) -> None:
        """Forget every token."""
        self.mixes = [_mixer(block.attention.mix) for block in self.transformer.blocks]

    def append(self, token: Tensor, position: int) -> Tensor:
        """Output [D] for the token [D] at that position."""
        # [D] -> [T, 1, 1, D]
        x_seq = token.expand(self.steps, 1, 1, -1)
        for block, mixer in zip(self.transformer.blocks, self.mixes, strict=True):
            branch = block.attention
            spikes, _ = branch.input_neuron(x_seq)
            q, k, v = (
                layer(spikes, 0.0, None)[0] for layer in (branch.query, branch.key, branch.value)
            )
            spikes, _ = branch.mix_neuron(mixer(q, k, v, position))
            x_seq = x_seq + branch.out(spikes, 0.0, None)
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
    if isinstance(mix, PositionalAttention):
        return _Positional(mix)
    if isinstance(mix, SoftmaxAttention):
        return _Softmax(mix)
    return _Linear(mix)
