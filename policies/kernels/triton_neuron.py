"""Neurons of all spike steps in one GPU kernel each way; Triton.

A program holds the state of a block of neurons in registers and walks the steps. Launch with
enable_fp_fusion=False: a fused multiply-add would round once where `policies.functional` rounds
twice, and spikes would differ.
"""

from typing import Any

import triton
import triton.language as tl

BLOCK = 256
HARD, SOFT = 0, 1
RECTANGLE, TRIANGLE, SIGMOID, ARCTAN = range(4)
FLOAT32, BF16, NARROW, WIDE = range(4)


@triton.jit
def encode(
    activation: Any,
    spikes: Any,
    threshold: Any,
    start: Any,
    steps: tl.constexpr,
    columns: Any,
    block: tl.constexpr,
) -> None:
    """The deterministic encoder: activation [M] at each step -> spikes [T, M]; v from `start`."""
    m = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = m < columns
    a = tl.load(activation + m, mask=inside, other=0.0)
    v = tl.zeros_like(a) + start
    for t in range(steps):
        v = v + a
        s = (v > threshold).to(tl.float32)
        v = v - threshold * s
        tl.store(spikes + t * columns + m, s.to(spikes.dtype.element_ty), mask=inside)


@triton.jit
def _current(
    x: Any, scale: Any, bias: Any, row: Any, n: Any, size: Any, inside: Any, kind: tl.constexpr
) -> Any:
    """Complete currents of neurons n in a row; see neuron.Currents."""
    if kind == 0:
        return tl.load(x + row * size + n, mask=inside, other=0.0)
    b = tl.load(bias + n, mask=inside, other=0.0)
    if kind == 1:
        return tl.load(x + row * size + n, mask=inside, other=0.0).to(tl.float32) + b
    at = x + row * 3 * size + n
    high = tl.load(at, mask=inside, other=0) * 256 + tl.load(at + size, mask=inside, other=0)
    low = tl.load(at + 2 * size, mask=inside, other=0)
    s = tl.load(scale + n, mask=inside, other=0.0)
    if kind == 2:
        return (high * 256 + low).to(tl.float32) * s + b
    return ((high.to(tl.float64) * 256.0 + low.to(tl.float64)) * s).to(tl.float32) + b


@triton.jit
def forward(
    x: Any,
    scale: Any,
    bias: Any,
    spikes: Any,
    v_seq: Any,
    v_last: Any,
    i_decay: Any,
    v_decay: Any,
    threshold: Any,
    steps: tl.constexpr,
    batch: Any,
    size: Any,
    kind: tl.constexpr,
    reset: tl.constexpr,
    keep: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """All spike steps of a layer; v_seq [T, B, N] are charged membranes before their reset."""
    m = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = m < batch * size
    b, n = m // size, m % size
    v = tl.zeros([block], tl.float32)
    i = tl.zeros([block], tl.float32)
    for t in range(steps):
        current = _current(x, scale, bias, t * batch + b, n, size, inside, kind)
        i = i * i_decay + current
        charged = v * v_decay + i
        s = (charged > threshold).to(tl.float32)
        if reset == 0:
            v = charged * (1.0 - s)
        else:
            v = charged - threshold * s
        at = t * batch * size + m
        tl.store(spikes + at, s.to(spikes.dtype.element_ty), mask=inside)
        if keep:
            tl.store(v_seq + at, charged, mask=inside)
    tl.store(v_last + m, v, mask=inside)


@triton.jit
def _slope(x: Any, width: Any, surrogate: tl.constexpr) -> Any:
    """Surrogate derivative at x = v - threshold."""
    if surrogate == 0:
        return tl.where(tl.abs(x) < width * 0.5, 1.0 / width, 0.0)
    if surrogate == 1:
        return tl.maximum(1.0 - tl.abs(x) / width, 0.0) / width
    if surrogate == 2:
        s = 1.0 / (1.0 + tl.exp(-4.0 / width * x))
        return 4.0 / width * s * (1.0 - s)
    y = 3.141592653589793 / width * x
    return 1.0 / (width * (1.0 + y * y))


@triton.jit
def backward(
    v_seq: Any,
    grad_spikes: Any,
    weights: Any,
    grad: Any,
    total: Any,
    summed: Any,
    i_decay: Any,
    v_decay: Any,
    threshold: Any,
    width: Any,
    steps: tl.constexpr,
    columns: Any,
    reset: tl.constexpr,
    through: tl.constexpr,
    surrogate: tl.constexpr,
    weighted: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Gradients of the currents, [T, M], their sum over T, [M], and that with weights [T].

    `through`: a gradient passes through the spike in the reset.
    """
    m = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = m < columns
    grad_v = tl.zeros([block], tl.float32)
    grad_i = tl.zeros([block], tl.float32)
    sums = tl.zeros([block], tl.float32)
    weighted_sums = tl.zeros([block], tl.float32)
    for step in range(steps):
        t = steps - 1 - step
        at = t * columns + m
        v = tl.load(v_seq + at, mask=inside, other=0.0)
        of_spike = tl.load(grad_spikes + at, mask=inside, other=0.0).to(tl.float32)
        carried = grad_v * v_decay
        kept = carried
        if reset == 0:
            kept = tl.where(v > threshold, 0.0, carried)
            if through:
                of_spike = of_spike - carried * v
        elif through:
            of_spike = of_spike - carried * threshold
        grad_v = kept + of_spike * _slope(v - threshold, width, surrogate)
        grad_i = grad_i * i_decay + grad_v
        tl.store(grad + at, grad_i.to(grad.dtype.element_ty), mask=inside)
        sums = sums + grad_i
        if weighted:
            weighted_sums = weighted_sums + tl.load(weights + t) * grad_i
    tl.store(total + m, sums, mask=inside)
    if weighted:
        tl.store(summed + m, weighted_sums.to(summed.dtype.element_ty), mask=inside)
