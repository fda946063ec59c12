"""Counting rules for spiking attention and its norms.

Attention, per query i and key j <= i that is not padding:

    SSSA, TSSA  one addition for each feature where q_i and k_j both fire (the score counts them);
                one for each spike of v_j where the score is not 0
    PSSA        one addition of P_ij for each feature where q_i, k_j and v_j all fire and P_ij is
                not 0; that they do is logic, not arithmetic
    softmax     as SSSA for scores and values, and two multiplications a pair and head, for the
                scale and the normalization; exponentials are left out

Dense: every pair j <= i, padding or not, at every spike step and feature.

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
from policies.energy.torch_rules import batch_norm, norm_count, spiked
from policies.normalization import PTBN, TdBN
from policies.transformer import SpikeLinear


def _scored(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """SSSA, TSSA and softmax attention."""
    assert isinstance(module, StepAttention | TemporalAttention | SoftmaxAttention)
    q, k, v = (split_heads(x, module.num_heads).double() for x in args[:3])
    steps, batch, heads, length, size = q.shape
    seen = visible(length, args[3] if len(args) > 3 else None, q)
    scores = q @ k.transpose(-1, -2) * seen
    used = scores if isinstance(module, StepAttention) else scores.sum(dim=0, keepdim=True)
    if isinstance(module, SoftmaxAttention):
        used = seen.expand(scores.shape)
    adds = float(scores.sum() + ((used != 0).double() @ v).sum())
    dense = 2.0 * steps * batch * heads * size * _pairs(length, length)
    scaled = 0.0
    if isinstance(module, SoftmaxAttention):
        scaled = 2.0 * steps * heads * float(seen.expand(batch, 1, length, length).sum())
        dense += 2.0 * steps * batch * heads * _pairs(length, length)
    return LayerCount(
        accumulates=adds / samples,
        multiply_accumulates=scaled / samples,
        dense=dense / samples,
        kind="attention",
        spiked=True,
    )


def _positional(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, PositionalAttention)
    ones = PositionalAttention(len(module.weight), module.window).to(module.weight.device)
    with torch.no_grad():
        ones.weight.copy_(module.weight != 0)
    steps, batch, length, features = args[0].shape
    dense = steps * batch * features * _pairs(length, module.window)
    adds = float(ones(*args).double().sum())
    return LayerCount(
        accumulates=adds / samples, dense=dense / samples, kind="attention", spiked=True
    )


def _pairs(length: int, window: int) -> int:
    """Pairs of a query and a key that is not later and within the window."""
    return sum(min(i + 1, window) for i in range(length))


def _ptbn(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """What PTBN adds to the batch norm in it."""
    assert isinstance(module, PTBN)
    x: Tensor = args[0]
    return norm_count(x, 0.0 if module.shortcut is None else 1.0, samples)


def folded(_module: nn.Module, _args: tuple[Any, ...], _output: Any, _samples: int) -> LayerCount:
    """A norm that is in its linear layer."""
    return LayerCount(kind="norm")


TRANSFORMER_RULES: dict[type[nn.Module], Rule] = {
    StepAttention: _scored,
    TemporalAttention: _scored,
    SoftmaxAttention: _scored,
    PositionalAttention: _positional,
    SpikeLinear: spiked,
    TdBN: batch_norm,
    PTBN: _ptbn,
}
