"""Counting rules for spiking attention and for norms.

Attention, per query i and key j <= i that is not padding:

    SSSA, TSSA  one addition for each feature where q_i and k_j both fire (the score counts them);
                one for each spike of v_j where the score is not 0
    PSSA        one addition of P_ij for each feature where q_i, k_j and v_j all fire
    softmax     as SSSA for scores and values, and two multiplications a pair and head, for the
                scale and the normalization; exponentials are left out

Norms in evaluation mode: batch norm one multiply-accumulate a value (two with a shortcut), layer
norm two (the deviation and the gain; its statistics are left out).
"""

from typing import Any

import torch
from torch import Tensor, nn

from policies.attention import (
    PositionalAttention,
    SoftmaxAttention,
    StepAttention,
    TemporalAttention,
    split_heads,
    visible,
)
from policies.energy.layer_count import LayerCount, Rule
from policies.normalization import PTBN, TdBN


def _scored(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """SSSA, TSSA and softmax attention."""
    assert isinstance(module, StepAttention | TemporalAttention | SoftmaxAttention)
    q, k, v = (split_heads(x, module.num_heads).double() for x in args[:3])
    steps, _, heads, length, _ = q.shape
    seen = visible(length, args[3] if len(args) > 3 else None, q)
    scores = q @ k.transpose(-1, -2) * seen
    used = scores if isinstance(module, StepAttention) else scores.sum(dim=0, keepdim=True)
    if isinstance(module, SoftmaxAttention):
        used = seen.expand(scores.shape)
    adds = scores.sum() + ((used != 0).double() @ v).sum()
    pairs = seen.expand(samples, 1, length, length).sum() * heads * steps
    products = 2.0 * float(pairs) if isinstance(module, SoftmaxAttention) else 0.0
    return LayerCount(accumulates=float(adds) / samples, multiply_accumulates=products / samples)


def _positional(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, PositionalAttention)
    ones = PositionalAttention(len(module.weight), module.window).to(module.weight.device)
    return LayerCount(accumulates=float(ones(*args).double().sum()) / samples)


def _batch_norm(
    _module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int
) -> LayerCount:
    x: Tensor = args[0]
    return LayerCount(multiply_accumulates=x.numel() / samples)


def _ptbn(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """What PTBN adds to the batch norm in it."""
    assert isinstance(module, PTBN)
    x: Tensor = args[0]
    return LayerCount(multiply_accumulates=0 if module.shortcut is None else x.numel() / samples)


def _layer_norm(
    _module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int
) -> LayerCount:
    x: Tensor = args[0]
    return LayerCount(multiply_accumulates=2.0 * x.numel() / samples)


TRANSFORMER_RULES: dict[type[nn.Module], Rule] = {
    StepAttention: _scored,
    TemporalAttention: _scored,
    SoftmaxAttention: _scored,
    PositionalAttention: _positional,
    TdBN: _batch_norm,
    PTBN: _ptbn,
    torch.nn.LayerNorm: _layer_norm,
}
