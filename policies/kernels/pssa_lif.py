"""PSSA and the neurons behind it in one pass over the context, compiled.

Arrays hold query, key and value side by side, [T, M, 3 D], as the fused projection writes them,
with M tokens of B contexts of L; spikes and their gradients are float32 or bfloat16 (see `bits`),
sums and membranes float32. Work grows with L * window.
Indices with an offset are unsigned, see `rows`.
"""

from typing import Any

import numpy as np

from policies.kernels import rows
from policies.kernels.bits import narrow, widen
from policies.kernels.jit import compiled
from policies.kernels.surrogate_rows import slopes

F0 = np.float32(0.0)
V, SLOPE, CARRIED, TURN, SUM, STEPS = range(6)


@compiled
def _keys(qkv: Any, t: int, m: int, seen: Any, ring: Any, place: int) -> None:
    """ring[place] = key times value of a token, 0 for padding."""
    width = np.uint64(ring.shape[1])
    for d in range(width):
        both = widen(qkv[t, m, width + d]) * widen(qkv[t, m, width + width + d])
        ring[place, d] = both * seen


@compiled
def _add_scaled(ring: Any, place: int, factor: Any, work: Any, to: int) -> None:
    for d in range(work.shape[1]):
        work[to, d] += factor * ring[place, d]


@compiled
def _mixed(ring: Any, first: int, weight: Any, i: int, work: Any, to: int) -> None:
    """work[to] = weighted sum over the window of query i, the oldest key first."""
    window = weight.shape[1]
    rows.clear(work, to)
    for o in range(min(window, i + 1) - 1, -1, -1):
        _add_scaled(ring, first + (i - o) % window, weight[i, o], work, to)


@compiled
def _gate(qkv: Any, t: int, m: int, work: Any, row: int, to: int) -> None:
    """work[to] = query times work[row]."""
    for d in range(work.shape[1]):
        work[to, d] = widen(qkv[t, m, d]) * work[row, d]


@compiled
def forward(
    qkv: Any, valid: Any, length: int, weight: Any, neuron: Any, spikes: Any, mark: Any
) -> int:
    """Mix tokens, then fire.

    Args:
        qkv: [T, M, 3 D].
        valid: [M], 1 for tokens that exist, else 0.
        length: L.
        weight: [context, window].
        neuron: a normed_lif.Neuron.
        spikes: out, [T, M, D].
        mark: out, [M], NaN where a membrane broke.

    Returns:
        the number of spikes.
    """
    steps, tokens, width = spikes.shape
    window = weight.shape[1]
    # key times value of the last `window` tokens, a ring for each spike step
    ring = np.empty((steps * window, width), np.float32)
    work = np.empty((STEPS, width), np.float32)
    fired = 0
    for m in range(tokens):
        i = m % length
        rows.clear(work, V)
        for t in range(steps):
            _keys(qkv, t, m, valid[m], ring, t * window + i % window)
            _mixed(ring, t * window, weight, i, work, SUM)
            _gate(qkv, t, m, work, SUM, SUM)
            rows.charge(work, SUM, neuron, V, SUM)
            fired += rows.emit(work, SUM, neuron.threshold, 0, width, spikes, t, m)
        mark[m] = np.float32(np.nan) if rows.broken(work, V) else F0
    return fired


@compiled
def _to_query(work: Any, carried: int, mixed: int, grad_qkv: Any, t: int, m: int) -> None:
    for d in range(work.shape[1]):
        grad_qkv[t, m, d] = narrow(grad_qkv, work[carried, d] * work[mixed, d])


@compiled
def _to_key(work: Any, turn: int, factor: Any, grad_ring: Any, place: int) -> None:
    for d in range(work.shape[1]):
        grad_ring[place, d] += factor * work[turn, d]


@compiled
def _dot(work: Any, row: int, ring: Any, place: int) -> Any:
    """work[row] . ring[place]: four sums side by side, since one waits for each addition."""
    a, b, c, d = F0, F0, F0, F0
    whole = work.shape[1] // 4 * 4
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for n in range(np.uint64(0), np.uint64(whole), np.uint64(4)):
        a += work[row, n] * ring[place, n]
        b += work[row, n + one] * ring[place, n + one]
        c += work[row, n + two] * ring[place, n + two]
        d += work[row, n + three] * ring[place, n + three]
    for n in range(whole, work.shape[1]):
        a += work[row, n] * ring[place, n]
    return (a + b) + (c + d)


@compiled
def _spread(qkv: Any, t: int, m: int, grad_ring: Any, place: int, seen: Any, grad_qkv: Any) -> None:
    """Gradient of key times value, to key and to value."""
    width = np.uint64(grad_ring.shape[1])
    for d in range(width):
        g = grad_ring[place, d] * seen
        key, value = widen(qkv[t, m, width + d]), widen(qkv[t, m, width + width + d])
        grad_qkv[t, m, width + d] = narrow(grad_qkv, g * value)
        grad_qkv[t, m, width + width + d] = narrow(grad_qkv, g * key)


@compiled
def backward(
    qkv: Any, valid: Any, length: int, weight: Any, neuron: Any, grad_spikes: Any, grad_qkv: Any,
    grad_weight: Any,
) -> None:  # fmt: skip
    """Gradient of query, key and value, and of the weights.

    Args:
        qkv: as in `forward`.
        valid: as in `forward`.
        length: as in `forward`.
        weight: as in `forward`.
        neuron: as in `forward`.
        grad_spikes: [T, M, D].
        grad_qkv: out, [T, M, 3 D].
        grad_weight: out, starts at 0, [context, window] float64.
    """
    steps, tokens, width = grad_spikes.shape
    window = weight.shape[1]
    ring = np.empty((steps * window, width), np.float32)
    grad_ring = np.empty((steps * window, width), np.float32)
    # scratch: STEPS + t holds step t's charged membranes, STEPS + T + t its sums over the window
    work = np.empty((STEPS + 2 * steps, width), np.float32)
    for m in range(tokens):
        i = m % length
        rows.clear(work, V)
        rows.clear(work, CARRIED)
        for t in range(steps):
            place = t * window + i % window
            _keys(qkv, t, m, valid[m], ring, place)
            rows.clear(grad_ring, place)
            _mixed(ring, t * window, weight, i, work, STEPS + steps + t)
            _gate(qkv, t, m, work, STEPS + steps + t, TURN)
            rows.charge(work, TURN, neuron, V, STEPS + t)
        for t in range(steps - 1, -1, -1):
            slopes(work, STEPS + t, neuron, SLOPE)
            rows.back_step(grad_spikes, t, m, STEPS + t, SLOPE, neuron, work, CARRIED)
            _to_query(work, CARRIED, STEPS + steps + t, grad_qkv, t, m)
            _gate(qkv, t, m, work, CARRIED, TURN)
            for o in range(min(window, i + 1)):
                place = t * window + (i - o) % window
                _to_key(work, TURN, weight[i, o], grad_ring, place)
                grad_weight[i, o] += _dot(work, TURN, ring, place)
        # The token that the next query no longer sees is done; after the last one, all are.
        done = i - window + 1
        for j in range(max(done, 0), (i if i == length - 1 else done) + 1):
            for t in range(steps):
                _spread(
                    qkv,
                    t,
                    m - i + j,
                    grad_ring,
                    t * window + j % window,
                    valid[m - i + j],
                    grad_qkv,
                )
