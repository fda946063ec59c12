"""One token through a spiking transformer with cached keys and values, compiled, event-driven.

A matmul adds the weight rows of the neurons that fired, in float32, in the order of the neurons.
Rows of scratch are spike steps. Weights lie [layer, in, out]; a norm is two rows after the matmul,
scale and shift with the bias in them, or a layer norm (gain, offset, and the bias before it).
"""

from typing import Any, NamedTuple

import numpy as np

from policies.kernels.jit import compiled

F0, F1 = np.float32(0.0), np.float32(1.0)
EPS = np.float32(1e-5)
PSSA, LINEAR, SOFTMAX = range(3)
# rows of a norm's parameters
SCALE, SHIFT, BIAS = range(3)


class Network(NamedTuple):
    """Packed weights: of the blocks [layers, in, out], norms [layers, 3, out], final norm [3, D].

    position is PSSA's weight [layers, context, window]; layer_norm says which kind norms are;
    v_decay, v_threshold and hard are the neurons'; kind is PSSA, LINEAR (SSSA, TSSA) or SOFTMAX.
    """

    qkv: Any
    out: Any
    up: Any
    down: Any
    qkv_norm: Any
    out_norm: Any
    up_norm: Any
    down_norm: Any
    final_norm: Any
    position: Any
    layer_norm: bool
    decay: np.float32
    threshold: np.float32
    hard: bool
    kind: int
    heads: int


class Cache(NamedTuple):
    """What earlier tokens left; arrays of a kind that is not used are empty.

    PSSA: keys times values of the last window, keys [layers, window, T, D].
    LINEAR: sums of key times value, state [layers, T * D, S, d]: of SSSA in each spike step
    (S = 1), of TSSA for each pair of them (S = T).
    SOFTMAX: keys and values of all tokens, [layers, context, T, D].
    broken: [layers] bool, whether the membrane of a key or value was NaN or infinite.
    """

    keys: Any
    values: Any
    state: Any
    broken: Any


@compiled
def _add(matrix: Any, layer: int, row: int, out: Any, t: int) -> None:
    for n in range(out.shape[1]):
        out[t, n] += matrix[layer, row, n]


@compiled
def _matmul(spikes: Any, matrix: Any, layer: int, out: Any) -> None:
    """Write out [T, out] = spikes [T, in] @ matrix[layer]."""
    out[:] = F0
    for k in range(matrix.shape[1]):
        for t in range(out.shape[0]):
            if spikes[t, k] != F0:
                _add(matrix, layer, k, out, t)


@compiled
def _affine(x: Any, t: int, norm: Any, layer: int) -> None:
    for n in range(x.shape[1]):
        x[t, n] = x[t, n] * norm[layer, SCALE, n] + norm[layer, SHIFT, n]


@compiled
def _layer_norm(x: Any, t: int, norm: Any, layer: int, low: int, high: int) -> None:
    mean, var = 0.0, 0.0
    for n in range(low, high):
        x[t, n] += norm[layer, BIAS, n]
        mean += x[t, n]
    mean /= high - low
    for n in range(low, high):
        var += (x[t, n] - mean) ** 2
    center = np.float32(mean)
    rstd = np.float32(1.0 / np.sqrt(var / (high - low) + EPS))
    for n in range(low, high):
        x[t, n] = (x[t, n] - center) * rstd * norm[layer, SCALE, n] + norm[layer, SHIFT, n]


@compiled
def _normed(x: Any, norm: Any, layer: int, layer_norm: bool, segments: int) -> None:
    size = x.shape[1] // segments
    for t in range(x.shape[0]):
        if layer_norm:
            for s in range(segments):
                _layer_norm(x, t, norm, layer, s * size, (s + 1) * size)
        else:
            _affine(x, t, norm, layer)


@compiled
def _fire(x: Any, net: Any, v: Any, spikes: Any) -> None:
    """Neurons from state 0 over currents x [T, N]; v is scratch of at least N."""
    decay, threshold, hard = net.decay, net.threshold, net.hard
    v[:] = F0
    for t in range(x.shape[0]):
        for n in range(x.shape[1]):
            c = v[n] * decay + x[t, n]
            spike = F1 if c > threshold else F0
            spikes[t, n] = spike
            v[n] = c * (F1 - spike) if hard else c - threshold * spike


@compiled
def _is_broken(v: Any, low: int, high: int) -> bool:
    """Whether a membrane of v[low:high] is NaN or infinite: such a neuron is silent."""
    bad = 0
    for n in range(low, high):
        bad += 0 if v[n] - v[n] == F0 else 1
    return bad > 0


@compiled
def _pssa(qkv: Any, keys: Any, position: Any, layer: int, i: int, out: Any) -> None:
    steps, width = out.shape
    window = keys.shape[1]
    for t in range(steps):
        for d in range(width):
            keys[layer, i % window, t, d] = qkv[t, width + d] * qkv[t, 2 * width + d]
            out[t, d] = F0
        for o in range(min(window, i + 1) - 1, -1, -1):
            weight, place = position[layer, i, o], (i - o) % window
            for d in range(width):
                out[t, d] += weight * keys[layer, place, t, d]
        for d in range(width):
            out[t, d] *= qkv[t, d]


@compiled
def _linear(qkv: Any, state: Any, layer: int, heads: int, out: Any) -> None:
    steps, width = out.shape
    pairs, size = state.shape[2], state.shape[3]
    out[:] = F0
    for t in range(steps):
        for d in range(width):
            row, low = t * width + d, d // size * size
            for s in range(pairs):
                step = t if pairs == 1 else s
                if qkv[t, width + d] != F0:
                    for n in range(size):
                        state[layer, row, s, n] += qkv[step, 2 * width + low + n]
                if qkv[t, d] != F0:
                    for n in range(size):
                        out[step, low + n] += state[layer, row, s, n]


@compiled
def _softmax(
    qkv: Any, keys: Any, values: Any, layer: int, i: int, heads: int, scores: Any, out: Any
) -> None:
    steps, width = out.shape
    size = width // heads
    root = np.float32(np.sqrt(size))
    out[:] = F0
    for t in range(steps):
        for d in range(width):
            keys[layer, i, t, d] = qkv[t, width + d]
            values[layer, i, t, d] = qkv[t, 2 * width + d]
        for h in range(heads):
            low, high = h * size, (h + 1) * size
            top = F0
            for j in range(i + 1):
                count = F0
                for d in range(low, high):
                    count += qkv[t, d] * keys[layer, j, t, d]
                scores[j] = count / root
                top = max(top, scores[j])
            total = F0
            for j in range(i + 1):
                scores[j] = np.float32(np.exp(scores[j] - top))
                total += scores[j]
            for j in range(i + 1):
                weight = scores[j] / total
                for d in range(low, high):
                    out[t, d] += weight * values[layer, j, t, d]


@compiled
def token_step(token: Any, i: int, steps: int, net: Any, cache: Any) -> Any:
    """Append the token at position i; returns the transformer's output for it, [D].

    NaN where a membrane broke, of this token or of a key or value before it: spikes hide that.

    Args:
        token: embedded token, [D].
        i: its position in the context, tokens before it in the cache.
        steps: spike steps.
        net: a Network.
        cache: a Cache; changed.
    """
    width, hidden = token.shape[0], net.up.shape[2]
    v = np.empty(max(3 * width, hidden), np.float32)
    scores = np.empty(i + 1, np.float32)
    x = np.empty((steps, width), np.float32)
    wide = np.empty((steps, hidden), np.float32)
    triple = np.empty((steps, 3 * width), np.float32)
    single = np.empty((steps, width), np.float32)
    fired = np.empty((steps, width), np.float32)
    fired_wide = np.empty((steps, hidden), np.float32)
    fired_triple = np.empty((steps, 3 * width), np.float32)
    for t in range(steps):
        x[t] = token
    for layer in range(net.qkv.shape[0]):
        _fire(x, net, v, fired)
        fault = _is_broken(v, 0, width)
        _matmul(fired, net.qkv, layer, triple)
        _normed(triple, net.qkv_norm, layer, net.layer_norm, 3)
        _fire(triple, net, v, fired_triple)
        if fault or _is_broken(v, width, 3 * width):
            cache.broken[layer] = True
        fault = cache.broken[layer] or _is_broken(v, 0, width)
        if net.kind == PSSA:
            _pssa(fired_triple, cache.keys, net.position, layer, i, single)
        elif net.kind == LINEAR:
            _linear(fired_triple, cache.state, layer, net.heads, single)
        else:
            _softmax(fired_triple, cache.keys, cache.values, layer, i, net.heads, scores, single)
        _fire(single, net, v, fired)
        fault = fault or _is_broken(v, 0, width)
        _matmul(fired, net.out, layer, single)
        _normed(single, net.out_norm, layer, net.layer_norm, 1)
        x += single
        if fault:
            x[:] = np.float32(np.nan)
        _fire(x, net, v, fired)
        fault = _is_broken(v, 0, width)
        _matmul(fired, net.up, layer, wide)
        _normed(wide, net.up_norm, layer, net.layer_norm, 1)
        _fire(wide, net, v, fired_wide)
        fault = fault or _is_broken(v, 0, hidden)
        _matmul(fired_wide, net.down, layer, single)
        _normed(single, net.down_norm, layer, net.layer_norm, 1)
        x += single
        if fault:
            x[:] = np.float32(np.nan)
    _normed(x, net.final_norm, 0, net.layer_norm, 1)
    out = np.zeros(width, np.float32)
    for t in range(steps):
        for n in range(width):
            out[n] += x[t, n]
    return out / np.float32(steps)
