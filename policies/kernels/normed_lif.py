"""Norm, residual stream and neurons of a spiking transformer's layer in one pass, compiled.

Arrays are [T, M, N]: spike step, token, feature. N falls into equal segments, one for each linear
layer whose output stands there (query, key and value stand side by side); layer statistics run over
a segment. With y the matmul's result:

    x = y + bias
    current = (layer * (layer norm of x) + batch * (batch norm of x) + fault) * mask + residual
    spikes = LIF(current)

Every term can be absent. All arithmetic is float32, each operation rounded on its own; y, spikes
and their gradients are float32 or bfloat16 (see `bits`). Backward computes currents and membranes
anew, as forward did, rather than keep them.
"""

from typing import Any, NamedTuple

import numpy as np

from policies.kernels import rows
from policies.kernels.jit import compiled
from policies.kernels.surrogate_rows import slopes

F0, F1 = np.float32(0.0), np.float32(1.0)
EPS = np.float32(1e-5)
# rows of scratch; deviations of the layer branch and charged membranes have one a spike step
ROW, V, SQUARE, SLOPE, CARRIED, STEPS = range(6)


class Norm(NamedTuple):
    """Weights of a norm's branches, 0 where one is absent, both without a norm; its segments."""

    layer: np.float32
    batch: np.float32
    segments: int


class Neuron(NamedTuple):
    """v_decay, v_threshold; whether the reset is hard, is detached; surrogate's place and width."""

    decay: np.float32
    threshold: np.float32
    hard: bool
    detach: bool
    kind: int
    width: np.float32


@compiled
def _layer_statistics(
    y: Any, t: int, m: int, params: Any, norm: Any, work: Any, layer_stats: Any
) -> None:
    """Mean and 1 / deviation of each segment of x[t, m]."""
    rows.add_bias(y, t, m, params, work, ROW)
    size = work.shape[1] // norm.segments
    count = np.float32(size)
    for s in range(norm.segments):
        low, high = s * size, (s + 1) * size
        mean = rows.row_sum(work, ROW, low, high) / count
        rows.square(work, ROW, low, high, mean, SQUARE)
        var = rows.row_sum(work, SQUARE, low, high) / count
        layer_stats[t, m, s, 0] = mean
        layer_stats[t, m, s, 1] = F1 / np.sqrt(var + EPS)


@compiled
def _deviations(
    y: Any, t: int, m: int, params: Any, norm: Any, layer_stats: Any, work: Any, to: int
) -> None:
    """work[to] = layer-normalized x[t, m], without gain."""
    rows.add_bias(y, t, m, params, work, to)
    size = work.shape[1] // norm.segments
    for s in range(norm.segments):
        mean, rstd = layer_stats[t, m, s, 0], layer_stats[t, m, s, 1]
        rows.standardize(work, to, s * size, (s + 1) * size, mean, rstd)


@compiled
def _normed(
    y: Any, t: int, m: int, params: Any, norm: Any, layer_stats: Any, work: Any, hat: int
) -> None:
    """y[t, m] through the norm, to work[ROW]; the layer branch's deviations to work[hat]."""
    if norm.layer != F0:
        _deviations(y, t, m, params, norm, layer_stats, work, hat)
    if norm.batch != F0:
        rows.by_batch(y, t, m, params, work, ROW)
        if norm.layer != F0:
            rows.mix(params, hat, norm.layer, norm.batch, work, ROW)
    elif norm.layer != F0:
        rows.by_layer(params, hat, work, ROW)
    else:
        rows.add_bias(y, t, m, params, work, ROW)


@compiled
def forward(
    y: Any, residual: Any, mask: Any, fault: Any, params: Any, norm: Any, layer_stats: Any,
    neuron: Any, fires: bool, current: Any, spikes: Any, mark: Any, counts: Any,
) -> None:  # fmt: skip
    """Currents and spikes; residual, mask and current may have T = 0: none, or not kept.

    Args:
        y: [T, M, N].
        residual: [T, M, N] or [0, ...].
        mask: factors of what joins the residual stream, [T, M, N] or [0, ...].
        fault: [M], 0, or NaN where something broke before; it reaches the residual stream.
        params: [6, N], see `rows`.
        norm: a Norm.
        layer_stats: out, [T, M, segments, 2], mean and 1 / deviation; only for the layer branch.
        neuron: a Neuron.
        fires: whether neurons follow; else only currents are written.
        current: out, [T, M, N] or [0, ...].
        spikes: out, [T, M, N].
        mark: out, [M], NaN where a membrane broke, else 0.
        counts: out, [segments], spikes, added up.
    """
    steps, tokens, features = y.shape
    work = np.empty((STEPS + 1, features), np.float32)
    size = features // norm.segments
    for m in range(tokens):
        rows.clear(work, V)
        for t in range(steps):
            if norm.layer != F0:
                _layer_statistics(y, t, m, params, norm, work, layer_stats)
            _normed(y, t, m, params, norm, layer_stats, work, STEPS)
            if residual.shape[0]:
                if mask.shape[0]:
                    rows.drop(mask, t, m, fault[m], work, ROW, ROW)
                rows.add_stream(residual, t, m, fault[m], work, ROW)
            if current.shape[0]:
                rows.put(work, ROW, current, t, m)
            if fires:
                rows.charge(work, ROW, neuron, V, ROW)
                for s in range(norm.segments):
                    low, high = s * size, (s + 1) * size
                    counts[s] += rows.emit(work, ROW, neuron.threshold, low, high, spikes, t, m)
        mark[m] = np.float32(np.nan) if fires and rows.broken(work, V) else F0


@compiled
def _charge_again(
    y: Any, current: Any, m: int, params: Any, norm: Any, layer_stats: Any, neuron: Any, work: Any
) -> None:
    """Charged membranes of token m to work[STEPS + t], deviations to work[STEPS + T + t]."""
    steps = y.shape[0]
    rows.clear(work, V)
    for t in range(steps):
        if norm.layer != F0 or not current.shape[0]:
            _normed(y, t, m, params, norm, layer_stats, work, STEPS + steps + t)
        if current.shape[0]:
            rows.take(current, t, m, work, ROW)
        rows.charge(work, ROW, neuron, V, STEPS + t)


@compiled
def backward_neurons(
    y: Any, current: Any, params: Any, norm: Any, layer_stats: Any, neuron: Any, fires: bool,
    grad_spikes: Any, grad_current: Any, mask: Any, grad_stream: Any, grad: Any, sums: Any,
) -> None:  # fmt: skip
    """Gradient of what the norm gives, and the sums over tokens that the norm's gradient needs.

    Args:
        y: [T, M, N], as in `forward`.
        current: what `forward` kept, or [0, ...]: computed anew.
        params: as in `forward`.
        norm: as in `forward`.
        layer_stats: as in `forward`.
        neuron: as in `forward`.
        fires: as in `forward`.
        grad_spikes: [T, M, N].
        grad_current: [T, M, N], or [0, ...]: none.
        mask: as in `forward`.
        grad_stream: out, [T, M, N], of the residual stream where a mask makes it another, or
            [0, ...].
        grad: out, [T, M, N], float32 or bfloat16.
        sums: out, [3, N] float64: sums of grad, of grad (y - mean) and of grad times the layer
            branch's deviations.
    """
    steps, tokens, features = y.shape
    # scratch: STEPS + t holds step t's charged membranes, STEPS + T + t its deviations
    work = np.empty((STEPS + 2 * steps, features), np.float32)
    part = np.zeros((3, features), np.float32)
    for m in range(tokens):
        _charge_again(y, current, m, params, norm, layer_stats, neuron, work)
        rows.clear(work, CARRIED)
        for t in range(steps - 1, -1, -1):
            source = CARRIED
            if fires:
                slopes(work, STEPS + t, neuron, SLOPE)
                rows.back_step(grad_spikes, t, m, STEPS + t, SLOPE, neuron, work, CARRIED)
            if grad_current.shape[0]:
                source = ROW
                rows.take(grad_current, t, m, work, ROW)
                rows.add_row(work, CARRIED, ROW)
            if mask.shape[0]:
                rows.put(work, source, grad_stream, t, m)
                rows.drop(mask, t, m, F0, work, source, ROW)
                source = ROW
            rows.gather(work, source, y, t, m, params, grad, part)
            if norm.layer != F0:
                rows.add_product(work, source, STEPS + steps + t, part, 2)
        # Few terms at a time in float32, so that little is lost.
        if m % 16 == 15 or m == tokens - 1:
            rows.flush(part, sums)


@compiled
def backward_norm(
    y: Any, grad: Any, valid: Any, params: Any, norm: Any, layer_stats: Any, means: Any,
    grad_y: Any, bias_sum: Any,
) -> None:  # fmt: skip
    """Gradient of y from that of the currents.

    Args:
        y: [T, M, N], as in `forward`.
        grad: [T, M, N], what `backward_neurons` gives.
        valid: [M], 1 for tokens in the batch statistics, else 0.
        params: as in `forward`.
        norm: as in `forward`.
        layer_stats: as in `forward`.
        means: [3, N], of the batch branch: sums[0] over the number of rows in the statistics;
            sums[1] over that number and the variance; the branch's weight times its scale.
        grad_y: out, [T, M, N], y's dtype; may be grad.
        bias_sum: out, [1, N] float64: what reaches the bias through the layer branch.
    """
    steps, tokens, features = y.shape
    work = np.empty((STEPS + 1, features), np.float32)
    out, hat = CARRIED, STEPS
    part = np.zeros((1, features), np.float32)
    size = features // norm.segments
    for t in range(steps):
        for m in range(tokens):
            rows.batch_gradient(grad, y, t, m, params, means, valid[m], work, out)
            if norm.layer != F0:
                _deviations(y, t, m, params, norm, layer_stats, work, hat)
                rows.gained(grad, t, m, params, norm.layer, hat, work, ROW, SQUARE)
                for s in range(norm.segments):
                    low, high = s * size, (s + 1) * size
                    mean = rows.row_sum(work, ROW, low, high) / np.float32(size)
                    turn = rows.row_sum(work, SQUARE, low, high) / np.float32(size)
                    rows.layer_gradient(
                        work, ROW, hat, low, high, mean, turn, layer_stats[t, m, s, 1]
                    )
                rows.add_both(work, ROW, out, part)
                if m % 64 == 63 or m == tokens - 1:
                    rows.flush(part, bias_sum)
            rows.put(work, out, grad_y, t, m)
