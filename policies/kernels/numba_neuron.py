"""Neurons of all spike steps in compiled loops (CPU).

Rows of neurons are the innermost loops, so that they are vectorized; nothing is fused or reordered,
so spikes are those of `policies.functional`. LIF is the current-based neuron with i_decay 0. bf16
tensors come as uint16 bits; see kernels.bits. Arrays come whole, with the row's indices: a view of
a row costs as much as the row.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from policies.kernels.bits import narrow, widen
from policies.kernels.jit import compiled

BF16_ONE = np.uint16(0x3F80)
HARD, SOFT = 0, 1
RECTANGLE, TRIANGLE, ARCTAN, GIVEN = 0, 1, 2, 3
F0, F1 = np.float32(0.0), np.float32(1.0)
# Rows of the working memory: charged membranes of the T steps stand behind them.
CURRENT, SYNAPTIC, V, SLOPE, GRAD, WEIGHTED, TOTAL, CHARGED = range(8)


@compiled
def integrate(activation: Any, threshold: Any, start: Any, spikes: Any, one: Any) -> None:
    """The deterministic encoder: activation [B, N] at each of T steps -> spikes [T, B, N].

    Membranes start at `start`; `one` is what a spike is in their dtype.
    """
    steps, batch, size = spikes.shape
    v, charged = np.empty(size, np.float32), np.empty((1, size), np.float32)
    for b in range(batch):
        for n in range(size):
            v[n] = start
        for t in range(steps):
            for n in range(size):
                charged[0, n] = v[n] + activation[b, n]
                v[n] = charged[0, n] - (threshold if charged[0, n] > threshold else F0)
            _fire(charged, 0, threshold, one, spikes, t, b)


@compiled
def _fire(work: Any, row: int, threshold: Any, one: Any, out: Any, t: int, b: int) -> None:
    """Spikes of charged membranes; `one` is what a spike is in their dtype."""
    zero = one - one
    for n in range(work.shape[1]):
        out[t, b, n] = one if work[row, n] > threshold else zero


def _load(x: Any, scale: Any, bias: Any, m: int, work: Any, row: int) -> None:
    """work[row] = complete currents of row m; compiled by the dtype of x, see below."""
    raise NotImplementedError("for compiled code only")


def _load_float32(x: Any, scale: Any, bias: Any, m: int, work: Any, row: int) -> None:
    for n in range(work.shape[1]):
        work[row, n] = x[m, n]


def _load_bf16(x: Any, scale: Any, bias: Any, m: int, work: Any, row: int) -> None:
    for n in range(work.shape[1]):
        work[row, n] = widen(x[m, n]) + bias[n]


def _load_narrow(x: Any, scale: Any, bias: Any, m: int, work: Any, row: int) -> None:
    for n in range(work.shape[1]):
        high = np.int32(x[m, 0, n] * np.int32(256) + x[m, 1, n])
        total = np.int32(high * np.int32(256) + x[m, 2, n])
        work[row, n] = np.float32(total) * scale[n] + bias[n]


def _load_wide(x: Any, scale: Any, bias: Any, m: int, work: Any, row: int) -> None:
    for n in range(work.shape[1]):
        high = np.int32(x[m, 0, n] * np.int32(256) + x[m, 1, n])
        total = np.float64(high) * 256.0 + np.float64(x[m, 2, n])
        work[row, n] = np.float32(total * scale[n]) + bias[n]


@overload(_load)
def _choose_load(x: Any, scale: Any, bias: Any, m: int, work: Any, row: int) -> Any:
    if x.dtype == types.int32:
        return _load_narrow if scale.dtype == types.float32 else _load_wide
    return _load_bf16 if x.dtype == types.uint16 else _load_float32


@compiled
def _reset(work: Any, row: int, threshold: Any, reset: int, state: Any, state_row: int) -> None:
    """state[state_row] = membranes work[row] after the reset."""
    if reset == HARD:
        for n in range(work.shape[1]):
            fired = F1 if work[row, n] > threshold else F0
            state[state_row, n] = work[row, n] * (F1 - fired)
    else:
        for n in range(work.shape[1]):
            fired = F1 if work[row, n] > threshold else F0
            state[state_row, n] = work[row, n] - threshold * fired


@compiled
def forward(
    x: Any,
    scale: Any,
    bias: Any,
    v: Any,
    i_decay: Any,
    v_decay: Any,
    threshold: Any,
    reset: int,
    spikes: Any,
    one: Any,
    complete: Any,
) -> None:
    """All spike steps of a layer.

    In: `x`, `scale`, `bias`, see neuron.Currents; the neuron's `i_decay`, `v_decay`, `threshold`,
    `reset`; `one`, what a spike is in the dtype of `spikes`.

    Out: `v` [B, N] after the last step; `spikes` [T, B, N]; `complete`, the complete currents, not
    wanted if its length is 0.
    """
    steps, batch, size = spikes.shape
    work = np.empty((CHARGED, size), np.float32)
    for b in range(batch):
        for n in range(size):
            work[SYNAPTIC, n] = F0
            v[b, n] = F0
        for t in range(steps):
            _load(x, scale, bias, t * batch + b, work, CURRENT)
            if complete.shape[0] > 0:
                for n in range(size):
                    complete[t, b, n] = work[CURRENT, n]
            for n in range(size):
                work[SYNAPTIC, n] = work[SYNAPTIC, n] * i_decay + work[CURRENT, n]
                work[V, n] = v[b, n] * v_decay + work[SYNAPTIC, n]
            _reset(work, V, threshold, reset, v, b)
            _fire(work, V, threshold, one, spikes, t, b)


@compiled
def _charged(
    x: Any,
    bias: Any,
    b: int,
    batch: int,
    steps: int,
    i_decay: Any,
    v_decay: Any,
    threshold: Any,
    reset: int,
    work: Any,
) -> None:
    """work[CHARGED + t] = charged membranes of sample b, before their reset, as in `forward`."""
    for n in range(work.shape[1]):
        work[SYNAPTIC, n] = F0
        work[V, n] = F0
    for t in range(steps):
        row = CHARGED + t
        _load(x, bias, bias, t * batch + b, work, CURRENT)
        for n in range(work.shape[1]):
            work[SYNAPTIC, n] = work[SYNAPTIC, n] * i_decay + work[CURRENT, n]
            work[row, n] = work[V, n] * v_decay + work[SYNAPTIC, n]
        _reset(work, row, threshold, reset, work, V)


@compiled
def membranes(
    x: Any, bias: Any, i_decay: Any, v_decay: Any, threshold: Any, reset: int, out: Any
) -> None:
    """Charged membranes [T, B, N] from currents x [T * B, N], float32 or, without bias, bf16."""
    steps, batch, size = out.shape
    work = np.empty((CHARGED + steps, size), np.float32)
    for b in range(batch):
        _charged(x, bias, b, batch, steps, i_decay, v_decay, threshold, reset, work)
        for t in range(steps):
            for n in range(size):
                out[t, b, n] = work[CHARGED + t, n]


@compiled
def _slope(
    kind: int, width: Any, threshold: Any, work: Any, row: int, given: Any, t: int, b: int
) -> None:
    """work[SLOPE] = surrogate derivative at work[row] - threshold; or what is given."""
    half, height = width * np.float32(0.5), F1 / width
    if kind == RECTANGLE:
        for n in range(work.shape[1]):
            x = work[row, n] - threshold
            work[SLOPE, n] = height if (x if x > F0 else -x) < half else F0
    elif kind == TRIANGLE:
        for n in range(work.shape[1]):
            rest = F1 - abs(work[row, n] - threshold) / width
            work[SLOPE, n] = (rest if rest > F0 else F0) / width
    elif kind == ARCTAN:
        factor = np.float32(np.pi) / width
        for n in range(work.shape[1]):
            x = factor * (work[row, n] - threshold)
            work[SLOPE, n] = F1 / (width * (F1 + x * x))
    else:
        for n in range(work.shape[1]):
            work[SLOPE, n] = given[t, b, n]


@compiled
def _through_spike(
    work: Any,
    row: int,
    grad_spikes: Any,
    t: int,
    b: int,
    decay: Any,
    threshold: Any,
    reset: int,
    through: Any,
) -> None:
    """work[GRAD], gradients of charged membranes: of step t, from those of the next step.

    `through` is 1 where a gradient passes through the spike in the reset, else 0.
    """
    if reset == HARD:
        for n in range(work.shape[1]):
            v = work[row, n]
            carried = work[GRAD, n] * decay
            kept = F0 if v > threshold else carried
            of_spike = widen(grad_spikes[t, b, n]) - through * (carried * v)
            work[GRAD, n] = kept + of_spike * work[SLOPE, n]
    else:
        for n in range(work.shape[1]):
            carried = work[GRAD, n] * decay
            of_spike = widen(grad_spikes[t, b, n]) - through * (carried * threshold)
            work[GRAD, n] = carried + of_spike * work[SLOPE, n]


@compiled
def _add_weighted(work: Any, weight: Any) -> None:
    for n in range(work.shape[1]):
        work[WEIGHTED, n] = work[WEIGHTED, n] + weight * work[SYNAPTIC, n]


@compiled
def backward(
    x: Any,
    layer_bias: Any,
    grad_spikes: Any,
    i_decay: Any,
    v_decay: Any,
    threshold: Any,
    reset: int,
    detach_reset: bool,
    kind: int,
    width: Any,
    slopes: Any,
    weights: Any,
    grad: Any,
    bias: Any,
    summed: Any,
) -> None:
    """Gradients of a layer's currents from those of its spikes.

    In: `x` [T * B, N], complete currents, or bf16 ones without `layer_bias` [N]; `grad_spikes`
    [T, B, N], float32 or bf16; the neuron; `kind` and `width` of the surrogate, `slopes` [T, B, N]
    for GIVEN, else of length 0; `weights` [T] for `summed`.

    Out: `grad` [T, B, N], float32 or bf16; `bias`, the bias's gradient [N]; `summed` [B, N], the
    sum of `weights` times `grad` over T, not wanted if its length is 0.
    """
    steps, batch, size = grad.shape
    work = np.empty((CHARGED + steps, size), np.float32)
    totals = np.zeros(size, np.float64)
    through = F0 if detach_reset else F1
    wanted = summed.shape[0] > 0
    for b in range(batch):
        _charged(x, layer_bias, b, batch, steps, i_decay, v_decay, threshold, reset, work)
        for n in range(size):
            work[SYNAPTIC, n] = F0
            work[GRAD, n] = F0
            work[WEIGHTED, n] = F0
            work[TOTAL, n] = F0
        for t in range(steps - 1, -1, -1):
            row = CHARGED + t
            _slope(kind, width, threshold, work, row, slopes, t, b)
            _through_spike(work, row, grad_spikes, t, b, v_decay, threshold, reset, through)
            for n in range(size):
                work[SYNAPTIC, n] = work[SYNAPTIC, n] * i_decay + work[GRAD, n]
                work[TOTAL, n] = work[TOTAL, n] + work[SYNAPTIC, n]
                grad[t, b, n] = narrow(grad, work[SYNAPTIC, n])
            if wanted:
                _add_weighted(work, weights[t])
        for n in range(size):
            totals[n] = totals[n] + work[TOTAL, n]
        if wanted:
            for n in range(size):
                summed[b, n] = narrow(summed, work[WEIGHTED, n])
    for n in range(size):
        bias[n] = totals[n]
