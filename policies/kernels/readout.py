"""Population activity times readout weights, the same bits in any order of addition.

Weights become integers with one power of two as scale for each action, spikes are counted, and the
sum of counts times integers is exact. A weight is off by at most 2^-29 of its action's largest.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from policies.kernels.choice import has_numba

_BITS = 29


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
        none = torch.zeros_like(weight[:, 0])
        compiled = compiled_read(populations.flatten(1), weight, none, 0.0, steps)
        if compiled is not None:
            return compiled
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
    values = _ExactRead.apply(populations, weight, steps)  # type: ignore[no-untyped-call]  # torch's
    return cast(Tensor, values)


def compiled_read(
    activity: Tensor, weight: Tensor, bias: Tensor, bias_gain: float, steps: int
) -> Tensor | None:
    """exact_read plus bias_gain * bias [A], faster for few observations; activity is [B, A * P].

    Returns:
        None where it cannot run: with gradients, elsewhere than on a CPU, without numba.
    """
    if torch.is_grad_enabled() or activity.device.type != "cpu" or not has_numba():
        return None  # inside an autograd function gradients are off
    if activity.dtype != torch.float32 or activity.dim() != 2:
        return None
    from policies.kernels.numba_event import read

    # The counts, whose division by `steps` has rounded.
    counts = np.rint(activity.detach().numpy() * np.float32(steps))
    values = torch.empty(len(counts), len(weight), dtype=torch.float32, device="cpu")
    weights, biases = weight.detach().numpy(), bias.detach().numpy()
    read(counts, weights, biases, np.float32(bias_gain), steps, True, values.numpy())
    return values
