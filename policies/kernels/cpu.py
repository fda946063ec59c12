"""The compiled loops of `kernels.numba_neuron` behind PyTorch tensors; CPU, float32 state."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from policies.kernels import numba_neuron as loops
from policies.kernels.bits import as_array
from policies.kernels.neuron import Currents, Gradients, Neurons, Pass
from policies.kernels.scratch import scratch

_ONE = {
    torch.float32: np.float32(1.0),
    torch.bfloat16: loops.BF16_ONE,
    torch.int8: np.int8(1),
}
# Whatever torch's defaults are.
_FLOAT: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
_KINDS = {"rectangle": loops.RECTANGLE, "triangle": loops.TRIANGLE, "arctan": loops.ARCTAN}


def encode(
    activation: Tensor,
    spike_steps: int,
    v_threshold: float,
    v_start: float,
    dtype: torch.dtype,
) -> Tensor:
    """See `NeuronKernel.encode`."""
    spikes = activation.new_empty(spike_steps, *activation.shape, dtype=dtype)
    loops.integrate(
        as_array(activation.contiguous()),
        np.float32(v_threshold),
        np.float32(v_start),
        as_array(spikes),
        _ONE[dtype],
    )
    return spikes


def forward(
    currents: Currents,
    shape: tuple[int, int, int],
    neurons: Neurons,
    dtype: torch.dtype,
    keep: bool,
) -> Pass:
    """See `NeuronKernel.forward`."""
    _, batch, size = shape
    spikes = torch.empty(shape, dtype=dtype, device="cpu")
    # Backward computes the membranes anew, from currents: less memory to write and to read. Sums of
    # integers lie in scratch memory, and are kept as complete currents.
    recombined = keep and currents.scale is not None
    complete = torch.empty(shape if recombined else (0, batch, size), **_FLOAT)
    v = torch.empty(batch, size, **_FLOAT)
    loops.forward(
        as_array(currents.x),
        as_array(_or_nothing(currents.scale)),
        as_array(_or_nothing(currents.bias)),
        as_array(v),
        *_settings(neurons),
        as_array(spikes),
        _ONE[dtype],
        as_array(complete),
    )
    saved = None
    if keep:
        saved = complete if recombined else currents.x.view(shape)
    return Pass(spikes, saved, v)


def backward(
    saved: Tensor,
    bias: Tensor,
    grad_spikes: Tensor,
    neurons: Neurons,
    dtype: torch.dtype,
    weights: Tensor | None,
) -> Gradients:
    """See `NeuronKernel.backward`."""
    grad = scratch("currents' gradient", tuple(saved.shape), dtype, saved.device)
    summed = torch.empty(
        saved.shape[1:] if weights is not None else (0, 0), dtype=dtype, device="cpu"
    )
    grad_bias = torch.empty_like(bias)
    surrogate = neurons.surrogate
    kind = _KINDS.get(surrogate.name, loops.GIVEN)
    # An exponential is not vectorized here: PyTorch's is.
    slopes = (
        _slopes(saved, bias, neurons) if kind == loops.GIVEN else torch.empty(0, 0, 0, **_FLOAT)
    )
    loops.backward(
        as_array(saved.flatten(0, 1)),
        as_array(bias),
        as_array(grad_spikes.contiguous()),
        *_settings(neurons),
        neurons.config.detach_reset,
        kind,
        np.float32(surrogate.width),
        as_array(slopes),
        as_array(_or_nothing(weights)),
        as_array(grad),
        as_array(grad_bias),
        as_array(summed),
    )
    return Gradients(grad, grad_bias, None if weights is None else summed)


def _slopes(saved: Tensor, bias: Tensor, neurons: Neurons) -> Tensor:
    """The surrogate's derivative at each step, [T, B, N]."""
    v_seq = torch.empty(saved.shape, **_FLOAT)
    loops.membranes(
        as_array(saved.flatten(0, 1)), as_array(bias), *_settings(neurons), as_array(v_seq)
    )
    return neurons.surrogate.derivative(v_seq - neurons.config.v_threshold)


def _or_nothing(x: Tensor | None) -> Tensor:
    return torch.empty(0, **_FLOAT) if x is None else x


def _settings(neurons: Neurons) -> tuple[np.float32, np.float32, np.float32, int]:
    config = neurons.config
    return (
        np.float32(neurons.i_decay),
        np.float32(config.v_decay),
        np.float32(config.v_threshold),
        loops.HARD if config.reset_mode == "hard" else loops.SOFT,
    )
