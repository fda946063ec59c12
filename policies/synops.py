"""A penalty on synaptic operations, which trades return for energy.

A spike costs its fan-out: one addition a neuron of the next layer, P inside an output population
whose spikes come back (see policies.intra_layer), one in the decoder. With S_l the spikes of the
encoder or of a layer of neurons, summed over the spike steps of a decision, the loss that training
sees is

    loss + penalty / 1000 * mean over the batch of sum_l fan_out_l S_l,

so `penalty` is what a thousand synaptic operations of a decision cost in units of the loss.
(PopSAN's published HalfCheetah actor takes 191,000 a decision: penalty=0.01 makes them 1.9 of it.)

The derivative with respect to a spike, penalty fan_out / (1000 B), is a constant. It is added to
the spikes' gradients on their way back, so the loss is computed elsewhere and need not know; the
value that is logged is without the penalty. It counts once for each backward pass through a forward
in training mode with gradients on: evaluation and targets, which have none, are free.

What an analog encoder sends are real numbers, whose products do not depend on them: no charge.

Source: Sorbaro et al. 2020 ("Optimizing the energy consumption of spiking neural networks for
neuromorphic applications"): fan-out times spikes as a term of the loss.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from policies.kernels.guard import autocast_on, autocasts
from policies.surrogate import tracing

# Synaptic operations that the penalty is the price of.
UNIT = 1000.0


def spike_prices(
    penalty: float, fan_out: Sequence[int], batch: int, device: torch.device
) -> list[float]:
    """What a spike adds to its gradient, for each fan-out; the loss is a mean over the batch.

    Raises:
        RuntimeError: under autocast to float16.
    """
    if autocast_on(device) and not autocasts(device):
        raise RuntimeError(
            "synops_penalty is added to gradients, which float16 training scales by a factor that "
            "is not known here: use amp='bf16', or synops_penalty=0"
        )
    each = penalty / (UNIT * max(batch, 1))
    return [each * targets for targets in fan_out]


def charged(spikes: Tensor, price: float) -> Tensor:
    """The spikes themselves, of any shape; backward adds price to the gradient of each."""
    if tracing():  # what is exported does not train
        return spikes
    out = _Charged.apply(spikes, price)  # type: ignore[no-untyped-call]  # torch's
    return cast(Tensor, out)


class _Charged(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(spikes: Tensor, price: float) -> Tensor:
        return spikes.view_as(spikes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.price = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return grad_outputs[0] + ctx.price, None
