"""Loops over one row of features, compiled: norms, neurons and their gradients.

Each function is one loop over plain arrays, which the compiler turns into vector instructions;
arrays come whole, with the row's indices, since a view of a row costs more than the row. Scratch is
one array [rows, N], whose rows the callers name; norm parameters are one array [6, N].
Where a loop does not start at 0 its index is unsigned: a signed one might be negative, would have
to be looked at, and the loop would not be vectorized.
"""

from typing import Any

import numpy as np

from policies.kernels.bits import narrow, widen
from policies.kernels.jit import compiled

# rows of the parameters: bias of the matmul; mean (of y), scale and shift of the batch branch; gain
# and offset of the layer branch
BIAS, MEAN, SCALE, SHIFT, GAIN, OFFSET = range(6)
F0, F1 = np.float32(0.0), np.float32(1.0)


@compiled
def add_bias(y: Any, t: int, m: int, params: Any, work: Any, to: int) -> None:
    """work[to] = y[t, m] + bias."""
    for n in range(work.shape[1]):
        work[to, n] = widen(y[t, m, n]) + params[BIAS, n]


@compiled
def by_batch(y: Any, t: int, m: int, params: Any, work: Any, to: int) -> None:
    """work[to] = batch branch of y[t, m]."""
    for n in range(work.shape[1]):
        centered = widen(y[t, m, n]) - params[MEAN, n]
        work[to, n] = centered * params[SCALE, n] + params[SHIFT, n]


@compiled
def by_layer(params: Any, hat: int, work: Any, to: int) -> None:
    """work[to] = layer branch of the deviations work[hat]."""
    for n in range(work.shape[1]):
        work[to, n] = work[hat, n] * params[GAIN, n] + params[OFFSET, n]


@compiled
def mix(params: Any, hat: int, layer: Any, batch: Any, work: Any, to: int) -> None:
    """work[to] = layer * (layer branch of work[hat]) + batch * work[to]."""
    for n in range(work.shape[1]):
        branch = work[hat, n] * params[GAIN, n] + params[OFFSET, n]
        work[to, n] = layer * branch + batch * work[to, n]


@compiled
def row_sum(work: Any, row: int, low: int, high: int) -> Any:
    """Sum of work[row, low:high]: eight sums side by side, since one waits for each addition."""
    a, b, c, d, e, f, g, h = F0, F0, F0, F0, F0, F0, F0, F0
    whole = low + (high - low) // 8 * 8
    for n in range(np.uint64(low), np.uint64(whole), np.uint64(8)):
        a += work[row, n]
        b += work[row, n + np.uint64(1)]
        c += work[row, n + np.uint64(2)]
        d += work[row, n + np.uint64(3)]
        e += work[row, n + np.uint64(4)]
        f += work[row, n + np.uint64(5)]
        g += work[row, n + np.uint64(6)]
        h += work[row, n + np.uint64(7)]
    for n in range(np.uint64(whole), np.uint64(high)):
        a += work[row, n]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@compiled
def square(work: Any, row: int, low: int, high: int, mean: Any, to: int) -> None:
    """work[to] = squared distance of work[row, low:high] from the mean."""
    for n in range(np.uint64(low), np.uint64(high)):
        centered = work[row, n] - mean
        work[to, n] = centered * centered


@compiled
def standardize(work: Any, row: int, low: int, high: int, mean: Any, rstd: Any) -> None:
    """work[row, low:high] to deviations from the mean, in units of 1 / rstd."""
    for n in range(np.uint64(low), np.uint64(high)):
        work[row, n] = (work[row, n] - mean) * rstd


@compiled
def add_stream(x: Any, t: int, m: int, fault: Any, work: Any, to: int) -> None:
    """work[to] = x[t, m] + (work[to] + fault): a branch joins the residual stream."""
    for n in range(work.shape[1]):
        work[to, n] = x[t, m, n] + (work[to, n] + fault)


@compiled
def drop(mask: Any, t: int, m: int, fault: Any, work: Any, row: int, to: int) -> None:
    """work[to] = (work[row] + fault) mask[t, m]: dropout, or its gradient."""
    for n in range(work.shape[1]):
        work[to, n] = (work[row, n] + fault) * mask[t, m, n]


@compiled
def put(work: Any, row: int, out: Any, t: int, m: int) -> None:
    """out[t, m] = work[row]."""
    for n in range(work.shape[1]):
        out[t, m, n] = narrow(out, work[row, n])


@compiled
def take(x: Any, t: int, m: int, work: Any, to: int) -> None:
    """work[to] = x[t, m]."""
    for n in range(work.shape[1]):
        work[to, n] = widen(x[t, m, n])


@compiled
def charge(work: Any, current: int, neuron: Any, v: int, to: int) -> None:
    """Charge work[v] by work[current], keep it in work[to], and reset it."""
    decay, threshold, hard = neuron.decay, neuron.threshold, neuron.hard
    for n in range(work.shape[1]):
        c = work[v, n] * decay + work[current, n]
        spike = F1 if c > threshold else F0
        work[to, n] = c
        work[v, n] = c * (F1 - spike) if hard else c - threshold * spike


@compiled
def emit(
    work: Any, charged: int, threshold: Any, low: int, high: int, spikes: Any, t: int, m: int
) -> Any:
    """spikes[t, m, low:high] of the charged membranes work[charged]; returns their number."""
    fired: Any = 0
    for n in range(np.uint64(low), np.uint64(high)):
        spike = work[charged, n] > threshold
        spikes[t, m, n] = narrow(spikes, F1 if spike else F0)
        fired += np.int32(1) if spike else np.int32(0)
    return fired


@compiled
def clear(work: Any, row: int) -> None:
    """work[row] = 0."""
    for n in range(work.shape[1]):
        work[row, n] = F0


@compiled
def broken(work: Any, v: int) -> Any:
    """Whether a membrane of work[v] is NaN or infinite."""
    bad: Any = 0
    for n in range(work.shape[1]):
        bad += np.int32(0) if work[v, n] - work[v, n] == F0 else np.int32(1)
    return bad > 0


@compiled
def back_step(
    grad_spikes: Any, t: int, m: int, charged: int, slope: int, neuron: Any, work: Any, carried: int
) -> None:
    """work[carried]: from the gradient of the next step's currents to that of this step's."""
    decay, threshold = neuron.decay, neuron.threshold
    hard, detach = neuron.hard, neuron.detach
    for n in range(work.shape[1]):
        c = work[charged, n]
        spike = F1 if c > threshold else F0
        back = work[carried, n] * decay
        drop = F0 if detach else (c if hard else threshold)
        g = widen(grad_spikes[t, m, n]) - back * drop
        kept = back - back * spike if hard else back
        work[carried, n] = kept + g * work[slope, n]


@compiled
def gather(work: Any, grad: int, y: Any, t: int, m: int, params: Any, out: Any, part: Any) -> None:
    """out[t, m] = work[grad]; part += work[grad] and work[grad] (y[t, m] - mean)."""
    for n in range(work.shape[1]):
        g = work[grad, n]
        out[t, m, n] = narrow(out, g)
        part[0, n] += g
        part[1, n] += g * (widen(y[t, m, n]) - params[MEAN, n])


@compiled
def add_row(work: Any, row: int, to: int) -> None:
    """work[to] += work[row]."""
    for n in range(work.shape[1]):
        work[to, n] += work[row, n]


@compiled
def add_product(work: Any, a: int, b: int, part: Any, to: int) -> None:
    """part[to] += work[a] work[b]."""
    for n in range(work.shape[1]):
        part[to, n] += work[a, n] * work[b, n]


@compiled
def flush(part: Any, sums: Any) -> None:
    """Add part to sums, in float64, and clear it."""
    for k in range(part.shape[0]):
        for n in range(part.shape[1]):
            sums[k, n] += part[k, n]
            part[k, n] = F0


@compiled
def batch_gradient(
    grad: Any, y: Any, t: int, m: int, params: Any, means: Any, weight: Any, work: Any, to: int
) -> None:
    """work[to]: gradient of y[t, m] through the batch branch; means [3, N] as `normed_lif` says."""
    for n in range(work.shape[1]):
        through = means[0, n] + (widen(y[t, m, n]) - params[MEAN, n]) * means[1, n]
        work[to, n] = means[2, n] * (widen(grad[t, m, n]) - weight * through)


@compiled
def gained(
    grad: Any, t: int, m: int, params: Any, factor: Any, hat: int, work: Any, to: int, square: int
) -> None:
    """work[to] = factor grad[t, m] gain; work[square] = that times the deviations work[hat]."""
    for n in range(work.shape[1]):
        work[to, n] = factor * widen(grad[t, m, n]) * params[GAIN, n]
        work[square, n] = work[to, n] * work[hat, n]


@compiled
def layer_gradient(
    work: Any, row: int, hat: int, low: int, high: int, mean: Any, turn: Any, rstd: Any
) -> None:
    """work[row, low:high]: from the gradient of the deviations to that of what was normalized."""
    for n in range(np.uint64(low), np.uint64(high)):
        work[row, n] = rstd * (work[row, n] - mean - work[hat, n] * turn)


@compiled
def add_both(work: Any, row: int, to: int, part: Any) -> None:
    """work[to] and part[0] += work[row]."""
    for n in range(work.shape[1]):
        work[to, n] += work[row, n]
        part[0, n] += work[row, n]
