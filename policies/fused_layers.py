"""Autograd shells of the compiled layers: norm, residual stream and neurons; PSSA and its neurons.

They run where `fused_transformer.runs_fused` says so: on a CPU, in training. What they compute and
how exactly is stated in `policies.kernels.normed_lif`; batch statistics are summed in another order
than PyTorch's, so their last bits differ, and a spike may flip where a membrane meets the
threshold. Where batch norms share their statistics with other processes, those of all of them are
united: two exchanges in forward, one in backward.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from policies.config import LIFConfig
from policies.kernels.guard import refuse_second_derivative
from policies.normalization import PTBN, Folded, TdBN, TdLN
from policies.surrogate import SURROGATES


@dataclass(frozen=True)
class NormInputs:
    """A norm over N features in segments, as tensors that gradients reach.

    gain, shift: of the batch branch, or None.
    layer_gain, layer_shift: of the layer branch, or None.
    theta: the layer branch's weight.
    norms: the batch norms whose running statistics follow, one a segment.
    """

    gain: Tensor | None
    shift: Tensor | None
    layer_gain: Tensor | None
    layer_shift: Tensor | None
    theta: float
    norms: tuple[TdBN, ...]
    segments: int


def join(tensors: list[Tensor]) -> Tensor:
    """Tensors one behind the other; one alone as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def norm_inputs(norms: list[nn.Module], theta: float | Tensor) -> NormInputs:
    """What norms of one kind, one for each segment, are to the kernels."""
    value = float(theta)
    found = [n.bn if isinstance(n, PTBN) else n for n in norms]
    batch = [n for n in found if isinstance(n, TdBN)]
    layer: list[Any] = [n.ln if isinstance(n, PTBN) else n for n in norms]
    # A theta that is a tensor wants gradients of every parameter, also where they are 0.
    if isinstance(norms[0], TdBN) or (isinstance(theta, float) and value == 0.0 and batch):
        layer, value = [], 0.0
    if isinstance(norms[0], TdLN):
        value = 1.0
    elif isinstance(norms[0], Folded):
        raise TypeError("a folded norm has no inputs")
    return NormInputs(
        gain=join([n.weight for n in batch]) if batch else None,
        shift=join([n.bias for n in batch]) if batch else None,
        layer_gain=join([n.weight for n in layer]) if layer else None,
        layer_shift=join([n.bias for n in layer]) if layer else None,
        theta=value,
        norms=tuple(batch),
        segments=len(norms),
    )


@dataclass
class Emitted:
    """What a layer gives.

    spikes: [T, B, L, N]; empty without neurons.
    current: [T, B, L, N]; empty where nothing reads it.
    fault: [B, L, 1], NaN where a membrane broke, else 0.
    rates: [segments], mean spikes a neuron and spike step.
    """

    spikes: Tensor
    current: Tensor
    fault: Tensor
    rates: Tensor


@dataclass(frozen=True)
class _Plan:
    """What `normed_lif` was asked for, less the tensors that get gradients."""

    norm: NormInputs | None
    neuron: LIFConfig | None
    spike_dtype: torch.dtype
    valid: Tensor | None
    fault: Tensor | None
    mask: Tensor | None

    @property
    def spike_entry(self) -> type:
        """What the kernels read spikes as."""
        return np.uint16 if self.spike_dtype == torch.bfloat16 else np.float32

    @property
    def neuron_inputs(self) -> Any:
        """The neurons for the kernels; where none fires, any."""
        return neuron_inputs(LIFConfig() if self.neuron is None else self.neuron)


def normed_lif(
    y: Tensor,
    bias: Tensor | None,
    norm: NormInputs | None,
    neuron: LIFConfig | None,
    spike_dtype: torch.dtype,
    *,
    valid: Tensor | None = None,
    residual: Tensor | None = None,
    fault: Tensor | None = None,
    mask: Tensor | None = None,
) -> Emitted:
    """Norm, residual stream and neurons, each of them only where it is given.

    Args:
        y: matmul of spikes without bias, [T, B, L, N], float32 or bfloat16.
        bias: [N].
        norm: the norm.
        neuron: settings of the neurons; without, currents are all.
        spike_dtype: float32 or bfloat16.
        valid: [B, L], which tokens batch statistics see; None: all.
        residual: [T, B, L, N], added to the currents, which are then kept.
        fault: [B, L, 1], added to the currents where there is a residual.
        mask: of dropout, [T, B, L, N]: currents are multiplied by it before they join the residual.
    """
    plan = _Plan(norm, neuron, spike_dtype, valid, fault, mask)
    affine = (norm.gain, norm.shift, norm.layer_gain, norm.layer_shift) if norm else (None,) * 4
    out = _NormedLIF.apply(y, bias, residual, plan, *affine)  # type: ignore[no-untyped-call]
    return Emitted(*cast(tuple[Tensor, Tensor, Tensor, Tensor], out))


def neuron_inputs(config: LIFConfig) -> Any:
    """A LIF's settings as the kernels take them."""
    from policies.kernels.normed_lif import Neuron

    return Neuron(
        decay=np.float32(config.v_decay),
        threshold=np.float32(config.v_threshold),
        hard=config.reset_mode == "hard",
        detach=config.detach_reset,
        kind=SURROGATES.index(config.surrogate),
        width=np.float32(config.surrogate_width),
    )


def flat(x: Tensor | None, rows: tuple[int, int, int], dtype: type = np.float32) -> Any:
    """A tensor's memory as [T, M, N]; an array with T = 0 in place of none."""
    from policies.kernels.bits import as_array

    if x is None or x.numel() == 0:
        return np.empty((0, *rows[1:]), dtype)
    return as_array(x.contiguous()).reshape(rows)


class _NormedLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, bias: Tensor | None, residual: Tensor | None, plan: _Plan,
        *affine: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        from policies.kernels import normed_lif as kernels

        ctx.set_materialize_grads(False)
        steps, batch, length, features = y.shape
        rows = (steps, batch * length, features)
        y = y.contiguous()
        valid = _ones_or(plan.valid, rows[1], 1.0)
        fault = _ones_or(plan.fault, rows[1], 0.0)
        norm, params, statistics = _norm(plan.norm, flat(y, rows), bias, valid, affine)
        keeps = residual is not None or plan.neuron is None
        spikes = torch.empty(y.shape if plan.neuron else (0,), dtype=plan.spike_dtype)
        current = torch.empty(y.shape if keeps else (0,))
        mark = torch.empty(batch, length, 1)
        counts = np.zeros(norm.segments, np.int64)
        shape = rows[:2] if norm.layer != 0.0 else (0, 0)
        layer_stats = np.empty((*shape, norm.segments, 2), np.float32)
        kernels.forward(
            flat(y, rows), flat(residual, rows), flat(plan.mask, rows), fault, params, norm,
            layer_stats, plan.neuron_inputs, plan.neuron is not None, flat(current, rows),
            flat(spikes, rows, plan.spike_entry), mark.view(-1).numpy(), counts,
        )  # fmt: skip
        # Gains are saved to be watched: changed in place before backward, they raise.
        ctx.save_for_backward(y, current, affine[0], affine[2])
        ctx.plan, ctx.norm, ctx.params, ctx.statistics = plan, norm, params, statistics
        ctx.valid, ctx.layer_stats = valid, layer_stats
        ctx.has = (bias is not None, residual is not None)
        rates = torch.from_numpy(counts / (steps * rows[1] * features // norm.segments)).float()
        ctx.mark_non_differentiable(mark, rates)
        return spikes, current, mark, rates

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        from policies.kernels import normed_lif as kernels

        refuse_second_derivative()
        y, current = ctx.saved_tensors[:2]
        plan, norm = ctx.plan, ctx.norm
        steps, batch, length, features = y.shape
        rows = (steps, batch * length, features)
        grad_spikes, grad_current = grads[0], grads[1]
        fires = plan.neuron is not None and grad_spikes is not None
        # The residual stream's gradient is float32.
        grad = torch.empty(y.shape, dtype=torch.float32 if ctx.has[1] else y.dtype)
        grad_stream = None if plan.mask is None else torch.empty(y.shape)
        sums = np.zeros((3, features))
        kernels.backward_neurons(
            flat(y, rows), flat(current, rows), ctx.params, norm, ctx.layer_stats,
            plan.neuron_inputs, fires, flat(grad_spikes, rows, plan.spike_entry),
            flat(grad_current, rows), flat(plan.mask, rows), flat(grad_stream, rows),
            flat(grad, rows), sums,
        )  # fmt: skip
        grad_residual = grad if ctx.has[1] and grad_stream is None else grad_stream
        if plan.norm is None:
            grad_bias = torch.from_numpy(sums[0]).float() if ctx.has[0] else None
            return grad.to(y.dtype), grad_bias, grad_residual, None, *(None,) * 4
        grad_y = torch.empty_like(y) if ctx.has[1] else grad
        bias_sum = np.zeros((1, features))
        count, rstd = ctx.statistics
        scale = norm.batch * ctx.params[SCALE]
        reached = _of_all(plan.norm, sums[:2])
        means = np.stack([reached[0] / count, reached[1] * rstd * rstd / count, scale])
        kernels.backward_norm(
            flat(y, rows), flat(grad, rows), ctx.valid, ctx.params, norm, ctx.layer_stats,
            means.astype(np.float32), flat(grad_y, rows), bias_sum,
        )  # fmt: skip
        inputs = plan.norm
        batch_grads: tuple[Tensor | None, Tensor | None] = (None, None)
        layer_grads: tuple[Tensor | None, Tensor | None] = (None, None)
        if inputs.gain is not None:
            batch_grads = (_tensor(norm.batch * rstd * sums[1]), _tensor(norm.batch * sums[0]))
        if inputs.layer_gain is not None:
            layer_grads = (_tensor(norm.layer * sums[2]), _tensor(norm.layer * sums[0]))
        if not np.isfinite(count):
            # Running statistics do not move with the bias, as those of a batch do.
            bias_sum[0] += scale * sums[0]
        grad_bias = _tensor(bias_sum[0]) if ctx.has[0] else None
        return grad_y, grad_bias, grad_residual, None, *batch_grads, *layer_grads


# Row of the batch branch's scale among the kernels' parameters.
SCALE = 2


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(x).float()


def _ones_or(x: Tensor | None, tokens: int, value: float) -> Any:
    if x is None:
        return np.full(tokens, value, np.float32)
    return x.detach().reshape(-1).to(torch.float32).contiguous().numpy()


def _norm(
    inputs: NormInputs | None, y: Any, bias: Tensor | None, valid: Any, affine: Any
) -> tuple[Any, Any, tuple[float, Any]]:
    """The kernels' Norm and its parameters; rows in the statistics and 1 / deviation [N]."""
    from policies.kernels.normed_lif import Norm

    features = y.shape[2]
    gain, shift, layer_gain, layer_shift = (0.0 if a is None else _array(a) for a in affine)
    added = np.zeros(features, np.float32) if bias is None else _array(bias)
    theta = 0.0 if inputs is None else inputs.theta
    mean, rstd, count = np.zeros(features), np.zeros(features), np.inf
    has_batch = inputs is not None and inputs.gain is not None
    if inputs is not None and has_batch:
        mean, rstd, count = _statistics(inputs, y, added, valid)
    params = np.empty((6, features), np.float32)
    for row, value in enumerate((added, mean, rstd * gain, shift, layer_gain, layer_shift)):
        params[row] = value
    norm = Norm(
        layer=np.float32(theta),
        batch=np.float32(1.0 - theta if has_batch else 0.0),
        segments=1 if inputs is None else inputs.segments,
    )
    return norm, params, (count, rstd)


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


def _of_all(inputs: NormInputs, x: Any) -> Any:
    """An array's sum over all processes where batch norms share their statistics."""
    sums = inputs.norms[0].sums if inputs.norms else None
    return x if sums is None else sums(torch.from_numpy(x)).numpy()


def _unite(inputs: NormInputs, count: float, mean: Any, squares: Any) -> tuple[float, Any, Any]:
    """Number of rows, mean and squared deviations of all processes' rows, from this one's."""
    total = _of_all(inputs, np.append(count * mean, count))
    rows = float(total[-1])
    united = total[:-1] / max(rows, 1.0)
    return rows, united, _of_all(inputs, squares + count * (mean - united) ** 2)


def _statistics(inputs: NormInputs, y: Any, bias: Any, valid: Any) -> tuple[Any, Any, float]:
    """Mean of y [N], 1 / deviation [N] and number of rows; running statistics follow."""
    from policies.kernels.moments import moments

    features = y.shape[2]
    mean, squares = np.zeros(features), np.zeros(features)
    count = moments(y, valid, mean, squares)
    if inputs.norms[0].sums is not None:
        count, mean, squares = _unite(inputs, count, mean, squares)
    parts = np.split(np.arange(features), inputs.segments)
    variance = squares / max(count, 1.0)
    for norm, part in zip(inputs.norms, parts, strict=True):
        if count == 0.0:
            # No token exists: the running statistics stand in, and get no gradient.
            mean[part] = norm.running_mean.numpy() - bias[part]
            variance[part] = norm.running_var.numpy()
        unbiased = _tensor(squares[part] / max(count - 1.0, 1.0))
        norm.follow(_tensor(mean[part] + bias[part]), unbiased, torch.tensor(count))
    rstd = 1.0 / np.sqrt(variance + inputs.norms[0].eps)
    return mean, rstd, count if count > 0.0 else np.inf
