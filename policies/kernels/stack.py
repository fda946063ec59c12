"""A whole stack of (linear, neurons) with the encoder in front, as one differentiable function.

One function instead of one a layer, since spikes between the layers are int8 or bf16: autograd
carries gradients along floating-point tensors only. It cannot be differentiated twice.

An activation is the same at every spike step, so its gradient is a sum over steps, and the sum is
taken in front of the first layer's matmul, which is then T times smaller. With the deterministic
encoder (v += a; spike where v > h; v -= h; d spike / dv = 1) a reaches the spike of step t through
all charges up to t: dL/da = sum_t c_t dL/ds_t with c_t = sum_{k <= t} (1 - h)^k. What v starts with
is not in it: it is a constant, and a spike's derivative is 1 wherever the membrane is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from policies.checks import fault_mark
from policies.config import EncoderKind
from policies.kernels import batch_norm
from policies.kernels.choice import Matmul
from policies.kernels.guard import refuse_second_derivative, without_autocast
from policies.kernels.matmul import WeightCache, currents, real_linear, spike_dtype
from policies.kernels.neuron import Currents, NeuronKernel, Neurons
from policies.kernels.scratch import scratch
from policies.surrogate import fires


class Stack(NamedTuple):
    """Everything but the tensors.

    Attributes:
        kernel: what runs the neurons.
        neurons: of every layer.
        encoder: how activations become spikes; None: the input is spikes.
        spike_steps: T.
        encoder_threshold: of the deterministic encoder.
        encoder_start: what its membranes start with.
        matmul: arithmetic forward.
        grad_dtype: dtype of the operands of backward matmuls.
        caches: one a layer.
        prices: what backward adds to the gradient of a spike of the encoder and of each layer;
            empty: nothing. See policies.synops.
        norms: batch normalization in training; None: there is none, or it is in the weights.
    """

    kernel: NeuronKernel
    neurons: Neurons
    encoder: EncoderKind | None
    spike_steps: int
    encoder_threshold: float
    encoder_start: float
    matmul: Matmul
    grad_dtype: torch.dtype
    caches: Sequence[WeightCache]
    prices: Sequence[float] = ()
    norms: batch_norm.StackNorms | None = None


def run_stack(
    stack: Stack, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """Spikes [T, B, out] of the last layer; NaN for samples with a fault in any layer.

    Args:
        stack: settings.
        x: activations [B, in], or spikes [T, B, in] if there is no encoder.
        weights: [out, in] of each layer.
        biases: [out] of each layer.
    """
    with without_autocast(x.device):
        return _run(stack, x, weights, biases)


def _run(stack: Stack, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    tensors = [x, *weights, *biases, *([] if stack.norms is None else stack.norms.gains)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        out = _Stack.apply(stack, *tensors)  # type: ignore[no-untyped-call]  # torch's
        spikes, fault = cast(tuple[Tensor, Tensor], out)
    else:
        spikes, fault = _forward(stack, x, weights, biases, None)
    return spikes + fault


class _Saved(NamedTuple):
    """What backward needs of each layer: input spikes [T, B, in], `Pass.saved`, norm."""

    inputs: list[Tensor]
    membranes: list[Tensor]
    normed: list[batch_norm.Normed]


def _forward(
    stack: Stack,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    saved: _Saved | None,
) -> tuple[Tensor, Tensor]:
    """Spikes [T, B, out] of the last layer, and the fault mark [B, 1]."""
    operand = _encode(stack, x)
    batch = operand.shape[1]
    fault = fault_mark(x if x.dim() == 2 else x.sum(dim=0))
    last = len(weights) - 1
    for layer, (weight, own_bias) in enumerate(zip(weights, biases, strict=True)):
        # A norm adds it behind itself.
        bias = own_bias if stack.norms is None else torch.zeros_like(own_bias)
        if layer == 0 and stack.encoder == "analog":
            current = real_linear(operand[0], weight, bias, stack.matmul)
            layer_currents = Currents(current.repeat(stack.spike_steps, 1))
        else:
            layer_currents = currents(
                operand.flatten(0, 1), weight, bias, stack.matmul, stack.caches[layer]
            )
        shape = (stack.spike_steps, batch, len(bias))
        if stack.norms is not None:
            layer_currents, normed = batch_norm.forward(
                stack.norms, layer, layer_currents, shape, own_bias
            )
            if saved is not None:
                saved.normed.append(normed)
        if saved is not None:
            saved.inputs.append(operand)
        result = stack.kernel.forward(
            layer_currents,
            shape,
            stack.neurons,
            torch.float32 if layer == last else spike_dtype(stack.matmul),
            saved is not None,
        )
        operand = result.spikes
        if saved is not None and result.saved is not None:
            saved.membranes.append(result.saved)
        fault = fault + fault_mark(result.v)
    return operand, fault


def _encode(stack: Stack, x: Tensor) -> Tensor:
    """Input spikes [T, B, in] in the forward matmul's dtype; activations stay as they are."""
    dtype = spike_dtype(stack.matmul)
    if stack.encoder == "analog":
        return x.expand(stack.spike_steps, -1, -1)
    if stack.encoder == "deterministic":
        threshold, start = stack.encoder_threshold, stack.encoder_start
        return stack.kernel.encode(x, stack.spike_steps, threshold, start, dtype)
    if stack.encoder == "poisson":
        x_seq = x.expand(stack.spike_steps, -1, -1)
        x = fires(x_seq, torch.rand_like(x_seq))
    return x.to(dtype)


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stack: Stack, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        layers = len(stack.caches)
        weights, biases = parameters[:layers], parameters[layers : 2 * layers]
        saved = _Saved([], [], [])
        spikes, fault = _forward(stack, x, weights, biases, saved)
        ctx.save_for_backward(*weights, *biases, *saved.inputs, *saved.membranes)
        ctx.stack, ctx.normed = stack, saved.normed
        ctx.mark_non_differentiable(fault)
        return spikes, fault

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        refuse_second_derivative()
        with without_autocast(grad_outputs[0].device):
            return _backward(ctx, grad_outputs[0])


def _backward(ctx: Any, grad: Tensor) -> Any:
    stack: Stack = ctx.stack
    tensors = ctx.saved_tensors
    layers = len(tensors) // 4
    weights, biases, inputs, membranes = (
        tensors[part * layers : (part + 1) * layers] for part in range(4)
    )
    grad_weights: list[Tensor | None] = [None] * layers
    grad_biases: list[Tensor | None] = [None] * layers
    grad_gains: list[Tensor | None] = [None] * (0 if stack.norms is None else layers)
    for layer in range(layers - 1, -1, -1):
        step_weights = _step_weights(stack, grad.device) if layer == 0 else None
        if stack.prices:  # in place but for the last layer's, which is not ours
            price = stack.prices[layer + 1]
            grad = grad + price if layer == layers - 1 else grad.add_(price)
        out = stack.kernel.backward(
            membranes[layer],
            biases[layer],
            grad,
            stack.neurons,
            stack.grad_dtype,
            step_weights,
        )
        grad_biases[layer] = out.bias
        if stack.norms is not None:
            out, grad_gains[layer] = batch_norm.backward(
                stack.norms, layer, ctx.normed[layer], out, step_weights
            )
        flat = out.grad.flatten(0, 1)  # [T * B, out]
        source, received = flat, inputs[layer].flatten(0, 1)
        if layer == 0 and stack.encoder == "analog":
            assert out.summed is not None
            source, received = out.summed, inputs[layer][0]
        grad_weights[layer] = _weight_gradient(source, received, weights[layer].dtype)
        if layer > 0 or ctx.needs_input_grad[1]:
            below = flat if out.summed is None else out.summed
            grad = _into_scratch(below, weights[layer].to(stack.grad_dtype))
            if layer > 0 or stack.encoder is None:
                grad = grad.view(stack.spike_steps, -1, grad.shape[-1])
    grad_x = grad.to(torch.float32, copy=True) if ctx.needs_input_grad[1] else None
    if grad_x is not None and stack.prices and stack.encoder in ("deterministic", "poisson"):
        assert step_weights is not None
        grad_x += stack.prices[0] * step_weights.sum()
    return None, grad_x, *grad_weights, *grad_biases, *grad_gains


def _weight_gradient(grad: Tensor, received: Tensor, dtype: torch.dtype) -> Tensor:
    """grad^T @ received, [out, in], from [M, out] and what the layer has received, [M, in]."""
    if received.dtype != grad.dtype:  # int8 spikes are kept: less memory
        shape = tuple(received.shape)
        received = scratch("spikes", shape, grad.dtype, grad.device).copy_(received)
    return (grad.t() @ received).to(dtype)


def _into_scratch(grad: Tensor, weight: Tensor) -> Tensor:
    """Grad @ weight, which the next layer's backward reads once."""
    shape = (grad.shape[0], weight.shape[1])
    return torch.mm(grad, weight, out=scratch("spikes' gradient", shape, grad.dtype, grad.device))


def _step_weights(stack: Stack, device: torch.device) -> Tensor | None:
    """c_t of the head of this file, [T]; 1 where a spike depends on its own step only."""
    if stack.encoder is None:
        return None
    kept = 1.0 - stack.encoder_threshold if stack.encoder == "deterministic" else 0.0
    weights = [sum(kept**age for age in range(t + 1)) for t in range(stack.spike_steps)]
    return torch.tensor(weights, dtype=torch.float32, device=device)
