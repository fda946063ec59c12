"""Population activity times readout weights, the same bits in any order of addition.

Weights become integers with one power of two as scale for each action, spikes are counted, and the
sum of counts times integers is exact. A weight is off by at most 2^-30 of its action's largest.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from policies.kernels.choice import has_numba
from policies.kernels.guard import transformed

_BITS = 29
_CPU = torch.device("cpu")


def fixed_point(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [A, P] as integers in float64, |q| <= 2^29, and the scale of each action, [A, 1]."""
    largest = weight.detach().double().abs().amax(dim=1, keepdim=True)
    exponent = torch.frexp(largest).exponent - _BITS
    scale = torch.ldexp(torch.ones_like(largest), exponent)
    return (weight.detach().double() / scale).round(), scale


class _ExactRead(torch.autograd.Function):
    """Differentiable twice; gradients are those of the plain product."""

    @staticmethod
    def forward(ctx: Any, populations: Tensor, weight: Tensor, steps: int) -> Tensor:
        ctx.save_for_backward(populations, weight)
        q, scale = fixed_point(weight)
        counts = (populations.double() * steps).round()
        # Under 2^53 nothing is rounded before the division.
        return ((counts * q).sum(dim=-1) * scale.squeeze(1) / steps).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        populations, weight = ctx.saved_tensors
        grad = grad_outputs[0].unsqueeze(-1)
        return grad * weight, (grad * populations).sum(dim=0), None


def exact_read(populations: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Values [B, A] of the activity [B, A, P], which is a number of spikes over `steps`."""
    if not torch.is_grad_enabled() and _is_compiled(populations, weight):
        return _compiled_read(populations, weight, steps)
    values = _ExactRead.apply(populations, weight, steps)  # type: ignore[no-untyped-call]  # torch's
    return cast(Tensor, values)


def _is_compiled(populations: Tensor, weight: Tensor) -> bool:
    plain = populations.dtype == weight.dtype == torch.float32
    return plain and populations.device.type == "cpu" and has_numba() and not transformed(_CPU)


def _compiled_read(populations: Tensor, weight: Tensor, steps: int) -> Tensor:
    """As `_ExactRead`, faster for few observations."""
    from policies.kernels.numba_event import read

    counts = (populations.flatten(1) * steps).round_()
    values = torch.empty(len(counts), len(weight))
    bias = np.zeros(len(weight), np.float32)
    read(counts.numpy(), weight.detach().numpy(), bias, np.float32(0), steps, True, values.numpy())
    return values
