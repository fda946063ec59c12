"""The kernels of `kernels.triton_neuron` behind PyTorch tensors; CUDA."""

from typing import Any

import torch
from torch import Tensor

from policies.kernels import triton_neuron as loops
from policies.kernels.neuron import Currents, Gradients, Neurons, Pass

_SURROGATES = {
    "rectangle": loops.RECTANGLE,
    "triangle": loops.TRIANGLE,
    "sigmoid": loops.SIGMOID,
    "arctan": loops.ARCTAN,
}


def encode(
    activation: Tensor,
    spike_steps: int,
    v_threshold: float,
    v_start: float,
    dtype: torch.dtype,
) -> Tensor:
    """See `NeuronKernel.encode`."""
    spikes = torch.empty(spike_steps, *activation.shape, dtype=dtype, device=activation.device)
    columns = activation.numel()
    if columns:
        loops.encode[_grid(columns)](
            activation.contiguous(),
            spikes,
            v_threshold,
            v_start,
            steps=spike_steps,
            columns=columns,
            block=loops.BLOCK,
            **_EXACT,
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
    steps, batch, size = shape
    x = currents.x.contiguous()
    spikes = torch.empty(shape, dtype=dtype, device=x.device)
    v_seq = torch.empty(shape if keep else (0,), device=x.device)
    v = torch.empty(batch, size, device=x.device)
    if batch:
        loops.forward[_grid(batch * size)](
            x,
            x if currents.scale is None else currents.scale,
            x if currents.bias is None else currents.bias,
            spikes,
            v_seq,
            v,
            *_neuron(neurons),
            steps=steps,
            batch=batch,
            size=size,
            kind=_kind(currents),
            reset=_reset(neurons),
            keep=keep,
            block=loops.BLOCK,
            **_EXACT,
        )
    return Pass(spikes, v_seq if keep else None, v)


def backward(
    saved: Tensor,
    bias: Tensor,
    grad_spikes: Tensor,
    neurons: Neurons,
    dtype: torch.dtype,
    weights: Tensor | None,
) -> Gradients:
    """See `NeuronKernel.backward`."""
    grad = torch.empty_like(saved, dtype=dtype)
    total = torch.zeros_like(saved[0])
    summed = torch.empty_like(total, dtype=dtype)
    columns = total.numel()
    if columns:
        loops.backward[_grid(columns)](
            saved,
            grad_spikes.contiguous(),
            total if weights is None else weights,
            grad,
            total,
            summed,
            *_neuron(neurons),
            neurons.surrogate.width,
            steps=len(saved),
            columns=columns,
            reset=_reset(neurons),
            through=not neurons.config.detach_reset,
            surrogate=_SURROGATES[neurons.surrogate.name],
            weighted=weights is not None,
            block=loops.BLOCK,
            **_EXACT,
        )
    return Gradients(grad, total.sum(dim=0), None if weights is None else summed)


# See the head of triton_neuron.
_EXACT: dict[str, Any] = {"enable_fp_fusion": False}


def _grid(columns: int) -> tuple[int]:
    return (-(-columns // loops.BLOCK),)


def _neuron(neurons: Neurons) -> tuple[float, float, float]:
    return neurons.i_decay, neurons.config.v_decay, neurons.config.v_threshold


def _reset(neurons: Neurons) -> int:
    return loops.HARD if neurons.config.reset_mode == "hard" else loops.SOFT


def _kind(currents: Currents) -> int:
    if currents.x.dtype == torch.int32:
        assert currents.scale is not None
        return loops.NARROW if currents.scale.dtype == torch.float32 else loops.WIDE
    return loops.BF16 if currents.x.dtype == torch.bfloat16 else loops.FLOAT32
