"""Neurons of all spike steps in compiled loops (CPU).

Rows of neurons are the innermost loops, so that they are vectorized; nothing is fused or reordered,
so spikes are those of `policies.functional`. LIF is the current-based neuron with i_decay 0. bf16
tensors come as int16 bits.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

BF16_ONE = np.int16(0x3F80)
HARD, SOFT = 0, 1
RECTANGLE, TRIANGLE, ARCTAN, GIVEN = 0, 1, 2, 3


@njit(cache=True)
def integrate(
    activation: Any, threshold: Any, spikes: Any, one: Any, copy: Any, copy_one: Any
) -> None:
    """The deterministic encoder: activation [B, N] at each of T steps -> spikes [T, B, N].

    `one` is what a spike is in the dtype of `spikes`; `copy` gets the same spikes in another dtype,
    or has length 0.
    """
    steps, batch, size = spikes.shape
    zero, copy_zero = one - one, copy_one - copy_one
    v = np.empty(size, np.float32)
    for b in range(batch):
        v[:] = 0.0
        for t in range(steps):
            for n in range(size):
                charged = v[n] + activation[b, n]
                fired = charged > threshold
                spikes[t, b, n] = one if fired else zero
                v[n] = charged - (threshold if fired else np.float32(0.0))
            if copy.shape[0] > 0:
                for n in range(size):
                    copy[t, b, n] = copy_zero if spikes[t, b, n] == zero else copy_one


def _load(x: Any, scale: Any, bias: Any, row: int, out: Any) -> None:
    """Complete currents of one row, [N] float32; compiled by the dtype of x, see below."""
    raise NotImplementedError


def _load_float32(x: Any, scale: Any, bias: Any, row: int, out: Any) -> None:
    for n in range(out.shape[0]):
        out[n] = x[row, n]


def _load_bf16(x: Any, scale: Any, bias: Any, row: int, out: Any) -> None:
    bits = out.view(np.int32)
    for n in range(out.shape[0]):
        bits[n] = np.int32(x[row, n]) << np.int32(16)
    for n in range(out.shape[0]):
        out[n] = out[n] + bias[n]


def _load_narrow(x: Any, scale: Any, bias: Any, row: int, out: Any) -> None:
    for n in range(out.shape[0]):
        high = x[row, 0, n] * np.int32(256) + x[row, 1, n]
        out[n] = np.float32(high * np.int32(256) + x[row, 2, n]) * scale[n] + bias[n]


def _load_wide(x: Any, scale: Any, bias: Any, row: int, out: Any) -> None:
    for n in range(out.shape[0]):
        high = x[row, 0, n] * np.int32(256) + x[row, 1, n]
        total = np.float64(high) * 256.0 + np.float64(x[row, 2, n])
        out[n] = np.float32(total * scale[n]) + bias[n]


@overload(_load)
def _choose_load(x: Any, scale: Any, bias: Any, row: int, out: Any) -> Any:
    if x.dtype == types.int32:
        return _load_narrow if scale.dtype == types.float32 else _load_wide
    return _load_bf16 if x.dtype == types.int16 else _load_float32


def _read(x: Any, out: Any) -> None:
    """A row of float32 or of bf16 bits into a row of float32; compiled by the dtype of x."""
    raise NotImplementedError


def _read_float32(x: Any, out: Any) -> None:
    for n in range(out.shape[0]):
        out[n] = x[n]


def _read_bf16(x: Any, out: Any) -> None:
    bits = out.view(np.int32)
    for n in range(out.shape[0]):
        bits[n] = np.int32(x[n]) << np.int32(16)


@overload(_read)
def _choose_read(x: Any, out: Any) -> Any:
    return _read_bf16 if x.dtype == types.int16 else _read_float32


def _store(x: Any, out: Any) -> None:
    """A row of float32 into a row of float32 or of bf16 bits; compiled by the dtype of out."""
    raise NotImplementedError


def _store_float32(x: Any, out: Any) -> None:
    for n in range(x.shape[0]):
        out[n] = x[n]


def _store_bf16(x: Any, out: Any) -> None:
    # To nearest even; NaN stays NaN.
    bits = x.view(np.int32)
    for n in range(x.shape[0]):
        odd = (bits[n] >> np.int32(16)) & np.int32(1)
        rounded = (bits[n] + np.int32(0x7FFF) + odd) >> np.int32(16)
        out[n] = np.int16(rounded) if x[n] == x[n] else np.int16(0x7FC0)


@overload(_store)
def _choose_store(x: Any, out: Any) -> Any:
    return _store_bf16 if out.dtype == types.int16 else _store_float32


@njit(cache=True)
def _fire(v: Any, threshold: Any, one: Any, out: Any) -> None:
    """Spikes of a row; `one` is what a spike is in their dtype."""
    zero = one - one
    for n in range(v.shape[0]):
        out[n] = one if v[n] > threshold else zero


@njit(cache=True)
def _reset(charged: Any, threshold: Any, reset: int, v: Any) -> None:
    """A row of membranes after the reset."""
    one, zero = np.float32(1.0), np.float32(0.0)
    if reset == HARD:
        for n in range(v.shape[0]):
            fired = one if charged[n] > threshold else zero
            v[n] = charged[n] * (one - fired)
    else:
        for n in range(v.shape[0]):
            fired = one if charged[n] > threshold else zero
            v[n] = charged[n] - threshold * fired


@njit(cache=True)
def forward(
    x: Any,
    scale: Any,
    bias: Any,
    i: Any,
    v: Any,
    i_decay: Any,
    v_decay: Any,
    threshold: Any,
    reset: int,
    spikes: Any,
    one: Any,
    copy: Any,
    copy_one: Any,
    v_seq: Any,
) -> None:
    """All spike steps of a layer.

    In: `x`, `scale`, `bias`, see neuron.Currents; the neuron's `i_decay`, `v_decay`, `threshold`,
    `reset`; `one`, `copy_one`, what a spike is in the dtypes of `spikes` and `copy`.

    In and out: the state `i`, `v` [B, N].

    Out: `spikes` [T, B, N]; `copy`, the same in another dtype; `v_seq`, charged membranes before
    their reset. The last two are not wanted if their length is 0.
    """
    steps, batch, size = spikes.shape
    current = np.empty(size, np.float32)
    for b in range(batch):
        for t in range(steps):
            _load(x, scale, bias, t * batch + b, current)
            for n in range(size):
                i[b, n] = i[b, n] * i_decay + current[n]
                current[n] = v[b, n] * v_decay + i[b, n]
            _reset(current, threshold, reset, v[b])
            _fire(current, threshold, one, spikes[t, b])
            if copy.shape[0] > 0:
                _fire(current, threshold, copy_one, copy[t, b])
            if v_seq.shape[0] > 0:
                for n in range(size):
                    v_seq[t, b, n] = current[n]


@njit(cache=True)
def _slope(kind: int, width: Any, v: Any, threshold: Any, given: Any, out: Any) -> None:
    """Surrogate derivative at v - threshold, a row."""
    size = out.shape[0]
    half = width * np.float32(0.5)
    height = np.float32(1.0) / width
    if kind == RECTANGLE:
        for n in range(size):
            out[n] = height if abs(v[n] - threshold) < half else np.float32(0.0)
    elif kind == TRIANGLE:
        for n in range(size):
            rest = np.float32(1.0) - abs(v[n] - threshold) / width
            out[n] = (rest if rest > 0 else np.float32(0.0)) / width
    elif kind == ARCTAN:
        factor = np.float32(np.pi) / width
        for n in range(size):
            x = factor * (v[n] - threshold)
            out[n] = np.float32(1.0) / (width * (np.float32(1.0) + x * x))
    else:
        for n in range(size):
            out[n] = given[n]


@njit(cache=True)
def _through_spike(
    v: Any,
    grad_out: Any,
    slope: Any,
    decay: Any,
    threshold: Any,
    reset: int,
    through: Any,
    grad: Any,
) -> None:
    """Gradient of a row of charged membranes, in place, from that of the next step's.

    `through` is 1 where a gradient passes through the spike in the reset, else 0.
    """
    zero = np.float32(0.0)
    if reset == HARD:
        for n in range(grad.shape[0]):
            carried = grad[n] * decay
            kept = zero if v[n] > threshold else carried
            grad[n] = kept + (grad_out[n] - through * (carried * v[n])) * slope[n]
    else:
        for n in range(grad.shape[0]):
            carried = grad[n] * decay
            grad[n] = carried + (grad_out[n] - through * (carried * threshold)) * slope[n]


@njit(cache=True)
def backward(
    v_seq: Any,
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

    In: `v_seq` as `forward` left it; `grad_spikes` [T, B, N], float32 or bf16 bits; the neuron;
    `kind` and `width` of the surrogate, `slopes` [T, B, N] for GIVEN, else of length 0; `weights`
    [T] for `summed`.

    Out: `grad` [T, B, N], float32 or bf16 bits; `bias`, the bias's gradient [N]; `summed` [B, N],
    the sum of `weights` times `grad` over T, not wanted if its length is 0.
    """
    steps, batch, size = v_seq.shape
    grad_i = np.empty(size, np.float32)
    grad_v = np.empty(size, np.float32)
    slope = np.empty(size, np.float32)
    grad_out = np.empty(size, np.float32)
    weighted = np.empty(size, np.float32)
    total = np.empty(size, np.float32)
    totals = np.zeros(size, np.float64)
    through = np.float32(0.0) if detach_reset else np.float32(1.0)
    for b in range(batch):
        for row in (grad_i, grad_v, weighted, total):
            row[:] = 0.0
        for t in range(steps - 1, -1, -1):
            v = v_seq[t, b]
            _read(grad_spikes[t, b], grad_out)
            _slope(kind, width, v, threshold, slopes[t, b] if len(slopes) > 0 else grad_i, slope)
            _through_spike(v, grad_out, slope, v_decay, threshold, reset, through, grad_v)
            for n in range(size):
                grad_i[n] = grad_i[n] * i_decay + grad_v[n]
                total[n] = total[n] + grad_i[n]
            _store(grad_i, grad[t, b])
            if len(summed) > 0:
                for n in range(size):
                    weighted[n] = weighted[n] + weights[t] * grad_i[n]
        if len(summed) > 0:
            _store(weighted, summed[b])
        for n in range(size):
            totals[n] = totals[n] + total[n]
    for n in range(size):
        bias[n] = totals[n]
