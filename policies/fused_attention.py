"""Autograd shell of the compiled PSSA with the neurons behind it."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from policies.config import LIFConfig
from policies.fused_layers import Emitted, neuron_inputs
from policies.kernels.guard import refuse_second_derivative


def positional_lif(qkv: Tensor, valid: Tensor | None, weight: Tensor, neuron: LIFConfig) -> Emitted:
    """PSSA of spikes, then neurons; sums go from the oldest key to the newest.

    Args:
        qkv: query, key and value side by side, [T, B, L, 3 D], float32 or bfloat16.
        valid: [B, L], 1 for tokens that exist; None: all do.
        weight: PSSA's [context, window].
        neuron: settings of the neurons.
    """
    out = _PositionalLIF.apply(qkv, weight, valid, neuron)  # type: ignore[no-untyped-call]
    spikes, mark, rates = cast(tuple[Tensor, Tensor, Tensor], out)
    return Emitted(spikes, spikes.new_empty(0), mark, rates)


class _PositionalLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, weight: Tensor, valid: Tensor | None, neuron: LIFConfig
    ) -> tuple[Tensor, Tensor, Tensor]:
        from policies.kernels import pssa_lif
        from policies.kernels.bits import as_array

        qkv, weight = qkv.contiguous(), weight.contiguous()
        steps, batch, length, width = qkv.shape
        spikes = qkv.new_empty(steps, batch, length, width // 3)
        mark = torch.empty(batch, length, 1)
        seen = torch.ones(batch, length) if valid is None else valid.float().contiguous()
        fired = pssa_lif.forward(
            as_array(qkv.flatten(1, 2)), as_array(seen.flatten()), length, as_array(weight),
            neuron_inputs(neuron), as_array(spikes.flatten(1, 2)), as_array(mark.flatten()),
        )  # fmt: skip
        ctx.save_for_backward(qkv, weight, seen)
        ctx.neuron = neuron
        rates = torch.tensor([fired / spikes.numel()])
        ctx.mark_non_differentiable(mark, rates)
        return spikes, mark, rates

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None, None]:
        from policies.kernels import pssa_lif
        from policies.kernels.bits import as_array

        refuse_second_derivative()
        qkv, weight, seen = ctx.saved_tensors
        length = qkv.shape[2]
        grad_qkv = torch.empty_like(qkv)
        grad_weight = np.zeros(weight.shape)
        pssa_lif.backward(
            as_array(qkv.flatten(1, 2)), as_array(seen.flatten()), length, as_array(weight),
            neuron_inputs(ctx.neuron), as_array(grads[0].contiguous().flatten(1, 2)),
            as_array(grad_qkv.flatten(1, 2)), grad_weight,
        )  # fmt: skip
        return grad_qkv, torch.from_numpy(grad_weight).float(), None, None
