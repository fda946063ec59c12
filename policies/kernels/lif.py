"""LIF over all spike steps with one hand-written backward, in PyTorch's own operations.

Autograd records a dozen operations a spike step and stacks the spikes; here each step writes into
one tensor, and backward walks the steps once. It cannot be differentiated twice.
"""

from typing import Any, cast

import torch
from torch import Tensor

from policies.config import LIFConfig
from policies.functional import LIFState, state_dtype
from policies.kernels.guard import refuse_second_derivative
from policies.surrogate import Surrogate, fires


def fused_lif_sequence(
    i_in_seq: Tensor, config: LIFConfig, surrogate: Surrogate
) -> tuple[Tensor, LIFState]:
    """`functional.lif_sequence` from state 0; the state that it returns carries no gradient.

    Args:
        i_in_seq: input currents, [T, ...].
        config: decay, threshold and reset.
        surrogate: step function with its derivative.

    Returns:
        spikes [T, ...], dtype of i_in_seq; and the state after the last step.
    """
    out = _FusedLIF.apply(i_in_seq, config, surrogate)  # type: ignore[no-untyped-call]  # torch's
    spikes_seq, v = cast(tuple[Tensor, Tensor], out)
    return spikes_seq, LIFState(v)


class _FusedLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, i_in_seq: Tensor, config: LIFConfig, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor]:
        # v_seq holds the charged membrane of every step, before its reset.
        v_seq = torch.empty_like(i_in_seq, dtype=state_dtype(i_in_seq.dtype))
        spikes_seq = torch.empty_like(v_seq)
        v = torch.zeros_like(v_seq[0])
        for t, i_in in enumerate(i_in_seq):
            torch.mul(v, config.v_decay, out=v_seq[t])
            v_seq[t].add_(i_in)
            spikes_seq[t] = fires(v_seq[t], config.v_threshold)
            v = _after_reset(v_seq[t], spikes_seq[t], config)
        ctx.save_for_backward(v_seq, spikes_seq)
        ctx.config, ctx.surrogate, ctx.dtype = config, surrogate, i_in_seq.dtype
        ctx.mark_non_differentiable(v)
        return spikes_seq.to(i_in_seq.dtype), v

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        v_seq, spikes_seq = ctx.saved_tensors
        config = ctx.config
        slope = ctx.surrogate.derivative(v_seq - config.v_threshold)
        grad_spikes = grad_outputs[0].to(v_seq.dtype)
        # d loss / d v_seq, from the last step to the first: through the spike and, by the decay and
        # the reset, through the next step's charge.
        grad_seq = torch.empty_like(v_seq)
        torch.mul(grad_spikes[-1], slope[-1], out=grad_seq[-1])
        for t in range(len(v_seq) - 2, -1, -1):
            carried = grad_seq[t + 1] * config.v_decay
            grad_spike = grad_spikes[t]
            if not config.detach_reset:
                grad_spike = grad_spike - carried * _drop(v_seq[t], config)
            if config.reset_mode == "hard":
                carried.addcmul_(carried, spikes_seq[t], value=-1.0)
            torch.addcmul(carried, grad_spike, slope[t], out=grad_seq[t])
        return grad_seq.to(ctx.dtype), None, None


def _after_reset(v: Tensor, spikes: Tensor, config: LIFConfig) -> Tensor:
    if config.reset_mode == "hard":
        # v - v s rounds as v (1 - s) does for s in {0, 1}, in one pass.
        return torch.addcmul(v, v, spikes, value=-1.0)
    return v - config.v_threshold * spikes


def _drop(v: Tensor, config: LIFConfig) -> Tensor | float:
    """What one spike takes from the membrane v."""
    return v if config.reset_mode == "hard" else config.v_threshold
