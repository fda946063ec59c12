"""Neurons of all spike steps in PyTorch's operations, with a hand-written backward; any device.

Autograd records a dozen operations a spike step and stacks the spikes; here each step writes into
one tensor, and backward walks the steps once.
"""

import torch
from torch import Tensor

from policies.config import LIFConfig
from policies.kernels.neuron import Currents, Gradients, Neurons, Pass
from policies.surrogate import fires


def encode(
    activation: Tensor,
    spike_steps: int,
    v_threshold: float,
    v_start: float,
    dtype: torch.dtype,
) -> Tensor:
    """See `NeuronKernel.encode`."""
    spikes = torch.empty(spike_steps, *activation.shape, dtype=dtype, device=activation.device)
    v = torch.full_like(activation, v_start)
    for t in range(spike_steps):
        v = v + activation
        fired = fires(v, v_threshold)
        spikes[t] = fired
        v = v - v_threshold * fired.to(v.dtype)
    return spikes


def forward(
    currents: Currents,
    shape: tuple[int, int, int],
    neurons: Neurons,
    dtype: torch.dtype,
    keep: bool,
) -> Pass:
    """See `NeuronKernel.forward`."""
    config, i_decay = neurons.config, neurons.i_decay
    x_seq = currents.float32().view(shape)
    spikes_seq = torch.empty(shape, dtype=dtype, device=x_seq.device)
    v_seq = torch.empty_like(x_seq) if keep else None
    v = torch.zeros_like(x_seq[0])
    i = torch.zeros_like(v)
    for t, x in enumerate(x_seq):
        i = i * i_decay + x if i_decay else x
        charged = v * config.v_decay + i
        fired = fires(charged, config.v_threshold)
        spikes_seq[t] = fired
        if v_seq is not None:
            v_seq[t] = charged
        v = _after_reset(charged, fired.to(v.dtype), config)
    return Pass(spikes_seq, v_seq, v)


def backward(
    saved: Tensor,
    bias: Tensor,
    grad_spikes: Tensor,
    neurons: Neurons,
    dtype: torch.dtype,
    weights: Tensor | None,
) -> Gradients:
    """See `NeuronKernel.backward`."""
    config, i_decay, v_seq = neurons.config, neurons.i_decay, saved
    slope = neurons.surrogate.derivative(v_seq - config.v_threshold)
    grad_seq = torch.empty_like(v_seq, dtype=dtype)
    grad_v = torch.zeros_like(v_seq[0])
    grad_i = torch.zeros_like(grad_v)
    summed = torch.zeros_like(grad_v) if weights is not None else None
    total = torch.zeros_like(grad_v)
    for t in range(len(v_seq) - 1, -1, -1):
        # Through the decay into the next step's charge; then through the spike, and the reset.
        carried = grad_v * config.v_decay
        grad_spike = grad_spikes[t]
        if not config.detach_reset:
            grad_spike = grad_spike - carried * _drop(v_seq[t], config)
        if config.reset_mode == "hard":
            carried = carried.masked_fill(fires(v_seq[t], config.v_threshold), 0.0)
        grad_v = torch.addcmul(carried, grad_spike, slope[t])
        grad_i = grad_i * i_decay + grad_v if i_decay else grad_v
        grad_seq[t] = grad_i
        total = total + grad_i
        if summed is not None and weights is not None:
            summed = summed + weights[t] * grad_i
    return Gradients(grad_seq, total.sum(dim=0), None if summed is None else summed.to(dtype))


def _after_reset(v: Tensor, spikes: Tensor, config: LIFConfig) -> Tensor:
    if config.reset_mode == "hard":
        # v - v s rounds as v (1 - s) does for s in {0, 1}, in one pass.
        return torch.addcmul(v, v, spikes, value=-1.0)
    return v - config.v_threshold * spikes


def _drop(v: Tensor, config: LIFConfig) -> Tensor | float:
    """What one spike takes from the membrane v."""
    return v if config.reset_mode == "hard" else config.v_threshold
