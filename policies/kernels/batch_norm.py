"""Normalization of a layer's currents by the statistics of their batch, forward and backward.

Currents x [T, B, N] of a layer become y = gain (x - mean) / sqrt(var + EPS) + bias, with mean and
variance over T and B. Backward, with n = T B and z = (x - mean) / sqrt(var + EPS):

    dL/dbias = sum dL/dy        dL/dgain = sum dL/dy z
    dL/dx = gain / sqrt(var + EPS) (dL/dy - dL/dbias / n - z dL/dgain / n)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from policies.kernels.neuron import Currents, Gradients

# As torch's batch norms; currents' variances are some hundredths.
EPS = 1e-5


class Moments(NamedTuple):
    """Statistics of a batch of currents, [N] each.

    Attributes:
        mean: over spike steps and batch.
        var: the same, divided by the number of values.
        mean_error: square of the mean's standard error.
        var_error: square of the variance's standard error.
    """

    mean: Tensor
    var: Tensor
    mean_error: Tensor
    var_error: Tensor


class StackNorms(NamedTuple):
    """What normalizes the layers of a stack in training.

    Attributes:
        gains: [N] of each layer.
        observers: told each layer's statistics and the batch size.
        compiled: whether numba's loops run.
    """

    gains: Sequence[Tensor]
    observers: Sequence[Callable[[Moments, int], None]]
    compiled: bool


class Normed(NamedTuple):
    """What backward needs of a layer: raw currents [T, B, N], mean and 1 / deviation [N]."""

    x: Tensor
    mean: Tensor
    spread: Tensor


def moments(x: Tensor) -> Moments:
    """Statistics of currents [T, B, N]; mean and variance are differentiable.

    The spike steps of a sample are no independent values, so standard errors are those of means
    over B samples, each with its own mean over T.
    """
    batch = x.shape[1]
    by_sample = x.mean(dim=0)
    mean = by_sample.mean(dim=0)
    squares = (x - mean).square().mean(dim=0)
    var = squares.mean(dim=0)
    pairs = max(batch * (batch - 1), 1)
    with torch.no_grad():
        mean_error = (by_sample - mean).square().sum(dim=0) / pairs
        var_error = (squares - var).square().sum(dim=0) / pairs
    return Moments(mean, var, mean_error, var_error)


def forward(
    norms: StackNorms,
    layer: int,
    currents: Currents,
    shape: tuple[int, int, int],
    bias: Tensor,
) -> tuple[Currents, Normed]:
    """Normalize the currents of a layer of shape [T, B, N], in which its bias is still 0."""
    if norms.compiled:
        x, found = _compiled_moments(currents, shape)
    else:
        x = currents.float32().view(shape)
        found = moments(x)
    norms.observers[layer](found, shape[1])
    spread = (found.var + EPS).rsqrt()
    scale = norms.gains[layer].detach() * spread
    shift = bias.detach() - found.mean * scale
    rows = x.flatten(0, 1)
    if norms.compiled:
        from policies.kernels import numba_batch_norm as loops

        y = torch.empty_like(rows)
        loops.apply(rows.numpy(), scale.numpy(), shift.numpy(), y.numpy())
    else:
        y = torch.addcmul(shift, rows, scale)
    return Currents(y), Normed(x, found.mean, spread)


def _compiled_moments(currents: Currents, shape: tuple[int, int, int]) -> tuple[Tensor, Moments]:
    from policies.kernels import numba_batch_norm as loops
    from policies.kernels.bits import as_array

    size = shape[2]
    x = torch.empty(shape, dtype=torch.float32, device="cpu")
    out = torch.empty(4, size, dtype=torch.float32, device="cpu")
    zeros = torch.zeros(size, dtype=torch.float32, device="cpu")
    scale = zeros if currents.scale is None else currents.scale
    loops.moments(
        as_array(currents.x), as_array(scale), as_array(zeros), as_array(x), as_array(out)
    )
    return x, Moments(*out.unbind(0))


def backward(
    norms: StackNorms,
    layer: int,
    normed: Normed,
    after: Gradients,
    weights: Tensor | None,
) -> tuple[Gradients, Tensor]:
    """Gradients of raw currents from those of normalized ones, and the gain's, [N].

    Args:
        norms: as in `forward`.
        layer: index of the layer.
        normed: what `forward` left.
        after: gradients of the normalized currents; overwritten.
        weights: of the spike steps in `summed`, [T]; None: no such sum.
    """
    gain = norms.gains[layer].detach()
    grad = after.grad
    if norms.compiled:
        from policies.kernels import numba_batch_norm as loops
        from policies.kernels.bits import as_array

        grad_gain = torch.empty_like(gain)
        summed = grad.new_empty(0, 0) if after.summed is None else after.summed
        steps = torch.empty(0) if weights is None else weights
        loops.backward(
            *(as_array(t) for t in (grad, *normed, gain, after.bias, steps, grad_gain, summed))
        )
        return after._replace(grad=grad), grad_gain
    rows = grad.shape[0] * grad.shape[1]
    z = (normed.x - normed.mean) * normed.spread
    wide = grad.float()
    grad_gain = (wide * z).sum(dim=(0, 1))
    wide = (wide - after.bias / rows - z * (grad_gain / rows)) * (gain * normed.spread)
    total = None
    if weights is not None:
        total = torch.tensordot(weights, wide, dims=1).to(grad.dtype)
    return Gradients(wide.to(grad.dtype), after.bias, total), grad_gain
