"""Event-driven inference in compiled loops (CPU): only the weights of neurons that fired are added.

With integer weights ("exact") any order of addition gives the same sum, so spikes equal those of
the batched path bit for bit. What PyTorch computes in front (z-score, receptive fields) is repeated
operation by operation; the exponential between `distances` and `propagate` stays PyTorch's.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]  # not in its __all__
from numba.extending import intrinsic

from policies.kernels.jit import compiled

HARD = 0
BITS = 23
# fraction bits of the largest float32 that three digits in [-128, 127] can hold
MOST = np.int32(0x7EFEFE)
MIN_EXPONENT = -126
BLOCK = 16


def _pointer_type(_context: Any, _address: Any) -> Any:
    """An address as a pointer that `carray` takes."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


_pointer: Any = intrinsic(_pointer_type)


@compiled
def changed(addresses: Any, sizes: Any, copy: Any) -> bool:
    """Whether the float32 arrays at `addresses`, of `sizes`, differ in any bit from `copy`.

    `copy` holds all of them, one after the other, as int32 bits.
    """
    start = 0
    for k in range(addresses.shape[0]):
        now = carray(_pointer(addresses[k]), (sizes[k],), np.int32)
        before = copy[start : start + sizes[k]]
        differ = np.int32(0)
        for n in range(now.shape[0]):
            differ |= now[n] ^ before[n]
        if differ != 0:
            return True
        start += sizes[k]
    return False


@compiled
def row_scale(weight: Any) -> Any:
    """The power of two that makes a row of weights integers of 24 bits; NaN if it is not finite."""
    largest = np.int32(0)
    bits = weight.view(np.int32)
    for n in range(bits.shape[0]):
        largest = max(largest, bits[n] & np.int32(0x7FFFFFFF))
    if largest >= 0x7F800000:
        return np.float32(np.nan)
    more = 1 if (largest & np.int32(0x7FFFFF)) > MOST else 0
    exponent: Any = max((largest >> 23) - 126 - BITS + more, MIN_EXPONENT)
    return np.float32(math.ldexp(1.0, exponent))


@compiled
def integer_rows(weight: Any, rows: Any, scale: Any) -> Any:
    """Weights [out, in] -> integers [in, out], and their scale [out].

    Returns:
        the largest sum of a neuron's magnitudes.
    """
    size_out, size_in = weight.shape
    q = np.empty((BLOCK, size_in), np.int32)
    most = np.int64(0)
    for start in range(0, size_out, BLOCK):
        stop = min(start + BLOCK, size_out)
        for n in range(start, stop):
            most = max(most, _integers(weight[n], scale[n : n + 1], q[n - start]))
        # A block at a time: neighbours in `rows` are written together.
        for m in range(size_in):
            for n in range(start, stop):
                rows[m, n] = q[n - start, m]
    return most


@compiled
def _integers(weight: Any, scale: Any, q: Any) -> Any:
    """A row's integers, its scale [1], and the sum of their magnitudes."""
    scale[0] = row_scale(weight)
    inverse = np.float32(1.0) / scale[0] if scale[0] == scale[0] else np.float32(0.0)
    for m in range(q.shape[0]):
        scaled = np.rint(weight[m] * inverse)
        q[m] = np.int32(scaled if scaled == scaled else np.float32(0.0))
    total = np.int64(0)
    for m in range(q.shape[0]):
        total += np.int64(abs(q[m]))
    return total


@compiled
def digits(weight: Any, parts: Any, scale: Any) -> Any:
    """Weights [out, in] -> int8 digits [3, out, in] and scales [out]; see `matmul.SplitWeight`.

    Returns:
        the largest sum of a row's magnitudes.
    """
    size_out, size_in = weight.shape
    q = np.empty(size_in, np.int32)
    most = np.int64(0)
    for n in range(size_out):
        most = max(most, _integers(weight[n], scale[n : n + 1], q))
        for m in range(size_in):
            low = ((q[m] + np.int32(128)) & np.int32(255)) - np.int32(128)
            rest = (q[m] - low) >> np.int32(8)
            middle = ((rest + np.int32(128)) & np.int32(255)) - np.int32(128)
            parts[2, n, m] = np.int8(low)
            parts[1, n, m] = np.int8(middle)
            parts[0, n, m] = np.int8((rest - middle) >> np.int32(8))
    return most


@compiled
def distances(
    obs: Any,
    mean: Any,
    var: Any,
    eps: Any,
    clip: Any,
    fields: Any,
    widths: Any,
    least: Any,
    out: Any,
) -> bool:
    """Exponents of the receptive fields' responses: obs [B, F] -> out [B, F, P].

    `mean`, `var` [F], `eps` and `clip` are the z-score's, which is left out if they have length 0;
    `fields` and `widths` [F, P] are mean and std of the fields, `least` their smallest variance.

    Returns:
        whether all is finite.
    """
    batch, size, fields_per = out.shape
    sound = True
    for b in range(batch):
        for f in range(size):
            z = obs[b, f]
            if mean.shape[0] > 0:
                sound &= bool(np.isfinite(z + mean[f] + var[f]))
                z = (z - mean[f]) / np.sqrt(var[f] + eps)
                sound &= bool(np.isfinite(z))
                z = min(max(z, -clip), clip)
            for p in range(fields_per):
                distance = z - fields[f, p]
                width = widths[f, p] * widths[f, p]
                width = least if width < least else width
                out[b, f, p] = np.float32(-0.5) * (distance * distance) / width
                sound &= bool(np.isfinite(distance)) & bool(np.isfinite(widths[f, p]))
    return sound


@compiled
def _encode(activation: Any, threshold: Any, start: Any, spikes: Any) -> None:
    """The deterministic encoder: activation [N] -> spikes [T, N]; membranes start at `start`."""
    steps, size = spikes.shape
    v = np.full(size, start, np.float32)
    for t in range(steps):
        for n in range(size):
            charged = v[n] + activation[n]
            fired = charged > threshold
            spikes[t, n] = np.int8(1) if fired else np.int8(0)
            v[n] = charged - (threshold if fired else np.float32(0.0))


@compiled
def _add_rows(spikes: Any, rows: Any, fired: Any, total: Any) -> None:
    """Sum of the rows [in, out] whose neuron fired, spikes [in]."""
    count = 0
    for m in range(spikes.shape[0]):
        fired[count] = m
        count += spikes[m]
    total[:] = 0
    size = total.shape[0]
    whole = count - count % 4
    # Four at a time: the sum is loaded and stored once for all of them.
    for k in range(0, whole, 4):
        a, b, c, d = fired[k], fired[k + 1], fired[k + 2], fired[k + 3]
        for n in range(size):
            total[n] += (rows[a, n] + rows[b, n]) + (rows[c, n] + rows[d, n])
    for k in range(whole, count):
        a = fired[k]
        for n in range(size):
            total[n] += rows[a, n]


@compiled
def _layer(
    spikes: Any,
    rows: Any,
    scale: Any,
    bias: Any,
    decays: Any,
    threshold: Any,
    reset: int,
    back: Any,
    back_bias: Any,
    out: Any,
) -> bool:
    """One layer: spikes [T, in] -> spikes [T, out]; whether its membranes are finite.

    `back` [P, out] and `back_bias` [out], or of length 0: weights and bias of spikes that come back
    to each population of P neurons; see policies.intra_layer.
    """
    steps, size = out.shape
    i = np.zeros(size, np.float32)
    v = np.zeros(size, np.float32)
    total = np.zeros(size, rows.dtype)
    fired = np.empty(spikes.shape[1] + 1, np.int64)
    returned = np.zeros(back.shape[1], np.float64)
    i_decay, v_decay = decays[0], decays[1]
    for t in range(steps):
        _add_rows(spikes[t], rows, fired, total)
        for n in range(size):
            current = np.float32(total[n]) * scale[n] + bias[n]
            if back.shape[0] > 0:
                current = (current + back_bias[n]) + np.float32(returned[n])
            i[n] = i[n] * i_decay + current
            v[n] = v[n] * v_decay + i[n]
        for n in range(size):
            out[t, n] = np.int8(1) if v[n] > threshold else np.int8(0)
        if reset == HARD:
            for n in range(size):
                v[n] = v[n] * (np.float32(1.0) - np.float32(out[t, n]))
        else:
            for n in range(size):
                v[n] = v[n] - threshold * np.float32(out[t, n])
        if back.shape[0] > 0:
            _send_back(out[t], back, returned)
    sound = True
    for n in range(size):
        sound &= bool(np.isfinite(v[n]))
    return sound


@compiled
def _send_back(spikes: Any, back: Any, returned: Any) -> None:
    """Sum [N] of the weights [P, N] inside populations of P neurons of those that fired."""
    size = back.shape[0]
    returned[:] = 0.0
    for n in range(spikes.shape[0]):
        if spikes[n] != 0:
            first = n // size * size
            for m in range(first, first + size):
                returned[m] += back[n - first, m]


@compiled
def propagate(
    activation: Any,
    encoder_threshold: Any,
    encoder_start: Any,
    sizes: Any,
    rows: Any,
    scale: Any,
    bias: Any,
    decays: Any,
    threshold: Any,
    reset: int,
    back: Any,
    back_bias: Any,
    counts: Any,
    step_weights: Any,
) -> bool:
    """Activations [B, in] -> weighted spike counts of the output neurons, `counts` [B, out].

    `encoder_threshold` is the deterministic encoder's, `encoder_start` what its membranes start
    with; `sizes` the neurons of the input and of each layer; `rows`, `scale`, `bias` those of all
    layers, one after the other, a layer's rows being [in, out]; `decays` (i_decay, v_decay),
    `threshold` and `reset` the neuron's; `back` and `back_bias` those of the last layer, see
    `_layer`; `step_weights` [T] the weight of a spike in its count.

    Returns:
        whether all membranes are finite.
    """
    steps, widest = step_weights.shape[0], sizes.max()
    buffers = np.empty((2, steps * widest), np.int8)
    sound = True
    for b in range(activation.shape[0]):
        spikes = buffers[0, : steps * sizes[0]].reshape((steps, sizes[0]))
        _encode(activation[b], encoder_threshold, encoder_start, spikes)
        row, neuron = 0, 0
        for layer in range(sizes.shape[0] - 1):
            n_in, n_out = sizes[layer], sizes[layer + 1]
            inside = back.shape[0] if layer == sizes.shape[0] - 2 else 0
            out = buffers[(layer + 1) % 2, : steps * n_out].reshape((steps, n_out))
            sound &= _layer(
                spikes,
                rows[row : row + n_in * n_out].reshape((n_in, n_out)),
                scale[neuron : neuron + n_out],
                bias[neuron : neuron + n_out],
                decays,
                threshold,
                reset,
                back[:inside],
                back_bias,
                out,
            )
            row += n_in * n_out
            neuron += n_out
            spikes = out
        counts[b, :] = 0.0
        for t in range(steps):
            for n in range(counts.shape[1]):
                counts[b, n] += step_weights[t] * np.float32(spikes[t, n])
    return sound


@compiled
def read(
    counts: Any, weight: Any, bias: Any, bias_gain: Any, steps: int, exact: bool, out: Any
) -> bool:
    """Values [B, A] from counts [B, A * P]; `exact` in the arithmetic of kernels.readout.

    Returns:
        whether they are finite.
    """
    actions, size = weight.shape
    sound = True
    for a in range(actions):
        scale = 1.0
        if exact:
            largest = np.float64(0.0)
            for p in range(size):
                largest = max(largest, np.float64(abs(weight[a, p])))
            _, exponent = math.frexp(largest)
            scale = math.ldexp(1.0, exponent - 29)
        for b in range(counts.shape[0]):
            total = 0.0
            for p in range(size):
                w = np.float64(weight[a, p])
                total += (np.rint(w / scale) if exact else w) * np.float64(counts[b, a * size + p])
            out[b, a] = np.float32(total * scale / steps) + bias_gain * bias[a]
            sound &= bool(np.isfinite(out[b, a]))
    return sound


@compiled
def unscale(squashed: Any, low: Any, high: Any) -> None:
    """Actions in [-1, 1] to the bounds [A], in place; the operations are Stable-Baselines3's."""
    for b in range(squashed.shape[0]):
        for a in range(squashed.shape[1]):
            wide = np.float32(0.5) * (squashed[b, a] + np.float32(1.0)) * (high[a] - low[a])
            squashed[b, a] = low[a] + wide
