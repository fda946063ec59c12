"""Batch normalization of currents in compiled loops (CPU): see policies.kernels.batch_norm.

Sums are float64: hundreds of rows add up, and a variance is a difference of sums.
"""

from typing import Any

import numpy as np

from policies.kernels.bits import narrow, widen
from policies.kernels.jit import compiled
from policies.kernels.numba_neuron import _load

MEAN, VAR, MEAN_ERROR, VAR_ERROR = range(4)
FACTOR, SLOPE, CONSTANT = range(3)


@compiled
def moments(x: Any, scale: Any, bias: Any, complete: Any, out: Any) -> None:
    """Complete currents and their statistics.

    In: `x`, `scale`, see neuron.Currents; `bias` [N], added before anything else.

    Out: `complete` [T, B, N]; `out` [4, N], rows as named above.
    """
    _, batch, size = complete.shape
    first, second = np.zeros((batch, size)), np.zeros((batch, size))
    _sum_samples(x, scale, bias, complete, first, second)
    mean, var = np.zeros(size), np.zeros(size)
    _add_up(first, mean)
    # A sample's mean square becomes its mean square deviation.
    for b in range(batch):
        for n in range(size):
            second[b, n] -= mean[n] * (2.0 * first[b, n] - mean[n])
    _add_up(second, var)
    for n in range(size):
        out[MEAN, n] = mean[n]
        out[VAR, n] = max(var[n], 0.0)
    _errors(first, mean, out, MEAN_ERROR)
    _errors(second, var, out, VAR_ERROR)


@compiled
def _sum_samples(x: Any, scale: Any, bias: Any, complete: Any, first: Any, second: Any) -> None:
    """Means over T of currents and of their squares, for each sample: [B, N], from 0 on."""
    steps, batch, size = complete.shape
    work = np.empty((1, size), np.float32)
    for b in range(batch):
        for t in range(steps):
            _load(x, scale, bias, t * batch + b, work, 0)
            for n in range(size):
                value = np.float64(work[0, n])
                complete[t, b, n] = work[0, n]
                first[b, n] += value
                second[b, n] += value * value
        for n in range(size):
            first[b, n] /= steps
            second[b, n] /= steps


@compiled
def _add_up(values: Any, mean: Any) -> None:
    """Mean [N], from 0 on, of values [B, N]."""
    batch, size = values.shape
    for b in range(batch):
        for n in range(size):
            mean[n] += values[b, n]
    for n in range(size):
        mean[n] /= batch


@compiled
def _errors(values: Any, mean: Any, out: Any, row: int) -> None:
    """out[row] = squares of the standard errors of means of values [B, N]."""
    batch, size = values.shape
    total = np.zeros(size)
    for b in range(batch):
        for n in range(size):
            total[n] += (values[b, n] - mean[n]) ** 2
    pairs = max(batch * (batch - 1), 1)
    for n in range(size):
        out[row, n] = total[n] / pairs


@compiled
def apply(x: Any, scale: Any, shift: Any, out: Any) -> None:
    """Out = x * scale + shift; x and out [M, N]."""
    for m in range(x.shape[0]):
        for n in range(x.shape[1]):
            out[m, n] = x[m, n] * scale[n] + shift[n]


@compiled
def backward(
    grad: Any,
    x: Any,
    mean: Any,
    spread: Any,
    gain: Any,
    grad_bias: Any,
    weights: Any,
    grad_gain: Any,
    summed: Any,
) -> None:
    """Gradients of raw currents, in place of those of normalized ones.

    In: `grad` [T, B, N] of normalized currents; raw currents `x` [T, B, N], their `mean` and
    reciprocal deviation `spread`, `gain`, the bias's gradient, all [N]; `weights` [T] for `summed`.

    Out: `grad`; `grad_gain` [N]; `summed` [B, N], the sum of `weights` times `grad` over T, not
    wanted if its length is 0.
    """
    steps, batch, size = grad.shape
    total = np.zeros(size, np.float64)
    for t in range(steps):
        for b in range(batch):
            for n in range(size):
                total[n] += widen(grad[t, b, n]) * (x[t, b, n] - mean[n])
    # dL/dx = factor dL/dy + slope x + constant
    terms = np.empty((3, size), np.float32)
    rows = np.float32(steps * batch)
    for n in range(size):
        grad_gain[n] = total[n] * spread[n]
        terms[FACTOR, n] = gain[n] * spread[n]
        terms[SLOPE, n] = -terms[FACTOR, n] * spread[n] * grad_gain[n] / rows
        terms[CONSTANT, n] = -terms[FACTOR, n] * grad_bias[n] / rows - terms[SLOPE, n] * mean[n]
    _map_gradients(grad, x, terms, weights, summed)


@compiled
def _map_gradients(grad: Any, x: Any, terms: Any, weights: Any, summed: Any) -> None:
    steps, batch, size = grad.shape
    wanted = summed.shape[0] > 0
    work = np.empty(size, np.float32)
    for b in range(batch):
        for n in range(size):
            work[n] = np.float32(0.0)
        for t in range(steps):
            weight = weights[t] if wanted else np.float32(0.0)
            for n in range(size):
                constant = x[t, b, n] * terms[SLOPE, n] + terms[CONSTANT, n]
                value = widen(grad[t, b, n]) * terms[FACTOR, n] + constant
                grad[t, b, n] = narrow(grad, value)
                work[n] += weight * value
        if wanted:
            for n in range(size):
                summed[b, n] = narrow(summed, work[n])
