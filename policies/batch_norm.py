"""Batch normalization between a spiking layer's weights and its neurons, with filtered statistics.

In training mode and with gradients on, currents x = W s [T, B, N] are normalized by their batch:

    y = gain (x - mean) / sqrt(var + eps) + bias

where `bias` is the linear layer's own. Everywhere else (acting, target networks, SAC's targets) the
moving statistics take the batch's place, and the norm is a constant map that is multiplied into the
weights: nothing is left of it for the neurons, kernels, event-driven inference or a chip.

The moving statistics are the estimates of one Kalman filter a neuron, for the mean and for the
variance each. What a batch shows, m, is the true value plus noise of variance r, which the spread
of the batch's samples tells; the true value itself moves from one update to the next, because the
weights do, by noise of variance q. With the estimate e and its own variance p ("doubt"):

    p <- p + q        K = p / (p + r)        e <- e + K (m - e)        p <- (1 - K) p

The momentum K is near 1 after a jump and small while nothing moves. q is not known but shows in the
surprises: E[(m - e)^2] = p + q + r before the step, so q is the moving mean of (m - e)^2 - p - r
over updates, pooled over the layer's neurons and relative to their variance (for the variance,
relative to its square).

Moving statistics are parameters without gradient, not buffers: a target network's weights are a
moving average of the network's, and its statistics have to be averages of the same kind, which
Stable-Baselines3's and d3rlpy's target updates make of parameters.

Source: Xu et al. 2026 (CaRe-BN; its release takes q + r for q, so that K stays above 1/2); Zheng et
al. 2021 (statistics over spike steps and batch).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from policies.kernels.batch_norm import EPS, Moments, moments
from policies.kernels.guard import plain_only, without_autocast

# Weight of an update in the moving mean that q is; larger for the first ones.
DRIFT_RATE = 0.01
# Least q: a drift of 0.3 % of a deviation an update.
LEAST_DRIFT = 1e-5
# Added to variances that are divided by.
TINY = 1e-12


class CurrentNorm(nn.Module):
    """Normalizes currents [T, B, N] of a layer, and knows what to multiply into its weights.

    Args:
        features: N.
        gain: start value of the gain, > 0.
    """

    doubt_mean: Tensor
    doubt_var: Tensor
    drift: Tensor
    updates: Tensor

    def __init__(self, features: int, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((features,), gain))
        self.moving_mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.moving_var = nn.Parameter(torch.ones(features), requires_grad=False)
        # p of the mean and of the variance; q of both; updates so far
        self.register_buffer("doubt_mean", torch.ones(features))
        self.register_buffer("doubt_var", torch.ones(features))
        self.register_buffer("drift", torch.zeros(2))
        self.register_buffer("updates", torch.zeros(()))
        # (a batch's statistics, its size) -> those of all processes' batches together, and their
        # size; see policies.distributed.share_statistics
        self.merge: Callable[[Moments, int], tuple[Moments, int]] | None = None

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Normalize currents x [T, B, N] by their own statistics, and follow these."""
        with without_autocast(x.device):
            found = moments(x)
            self.follow(found, x.shape[1])
            scale = self.gain * (found.var + EPS).rsqrt()
            return torch.addcmul(bias, x - found.mean, scale)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [N, in] and bias [N] of the linear layer with the moving statistics in them."""
        with without_autocast(weight.device):
            scale = self.gain * (self.moving_var + EPS).rsqrt()
            return weight * scale[:, None], bias - self.moving_mean * scale

    @torch.no_grad()
    def follow(self, found: Moments, batch: int) -> None:
        """Move the statistics by those of a batch; by none that are not finite, or of one sample.

        Args:
            found: the batch's statistics.
            batch: its samples, B.
        """
        if self.merge is not None:
            found, batch = self.merge(found, batch)
        if batch < 2:
            return
        state = (self.moving_mean, self.doubt_mean, self.moving_var, self.doubt_var, self.drift)
        # NumPy's calls take a third of the time of PyTorch's, which is all that matters here.
        if self.gain.device.type == "cpu" and not plain_only():
            arrays = [x.detach().numpy() for x in (*found, *state, self.updates)]
            new = _filtered(*arrays)
            if all(bool(abs(x).max() < float("inf")) for x in new):
                for array, value in zip(arrays[4:9], new, strict=True):
                    array[...] = value
                arrays[9][...] += 1.0
            return
        new = _filtered(*found, *state, self.updates)
        # No branch on the data: it would wait for the device.
        sound = torch.stack([torch.isfinite(x).all() for x in new]).all()
        for buffer, value in zip(state, new, strict=True):
            buffer.copy_(torch.where(sound, value, buffer))
        self.updates.add_(sound)

    def skip(self) -> None:
        """Say that there is no batch to follow; other processes may wait for that."""
        if self.merge is not None:
            nothing = torch.zeros_like(self.doubt_mean)
            self.follow(Moments(nothing, nothing, nothing, nothing), 0)

    @torch.no_grad()
    def doubt(self) -> None:
        """Let the next batch's statistics replace today's."""
        self.doubt_mean.fill_(1.0)
        self.doubt_var.fill_(1.0)
        self.drift.zero_()
        self.updates.zero_()

    @torch.no_grad()
    def settle(self, found: Moments) -> None:
        """Take statistics for the truth, up to their own errors; the next batches move them."""
        self.moving_mean.copy_(found.mean)
        self.moving_var.copy_(found.var)
        self.doubt_mean.copy_(found.mean_error)
        self.doubt_var.copy_(found.var_error)

    def extra_repr(self) -> str:
        """Show the size in print(module)."""
        return f"features={self.gain.shape[0]}"


def add_norm(layer: Any, v_threshold: float) -> None:
    """Give a SpikeLinear a norm: currents start around half a threshold, half of it off.

    Source: Xu et al. 2026 (CaRe-BN), start values of its release.
    """
    layer.norm = CurrentNorm(layer.out_features, v_threshold / 2.0)
    nn.init.constant_(layer.bias, v_threshold / 2.0)


def _filtered(
    mean: Any, var: Any, mean_error: Any, var_error: Any,
    old_mean: Any, doubt_mean: Any, old_var: Any, doubt_var: Any, drift: Any, updates: Any,
) -> tuple[Any, Any, Any, Any, Any]:  # fmt: skip
    """One step of both filters, for tensors and arrays alike: see the head of this file.

    Returns:
        mean, its doubt, variance, its doubt, [N] each; and the drifts, [2].
    """
    # 0 at the first update: until then the doubt is a guess.
    rate = ((updates > 0) / updates.clip(min=1.0)).clip(min=DRIFT_RATE) * (updates > 0)
    level = var + TINY
    mean, doubt_mean, of_mean = _step(mean, mean_error, old_mean, doubt_mean, level, drift[0], rate)
    var, doubt_var, of_var = _step(
        var, var_error, old_var, doubt_var, level * level, drift[1], rate
    )
    # `drift` is small: by its parts, since arrays and tensors are stacked by different functions
    new = drift * 0.0
    new[0] = of_mean
    new[1] = of_var
    return mean, doubt_mean, var, doubt_var, new


def _step(
    seen: Any, error: Any, estimate: Any, doubt: Any, level: Any, drift: Any, rate: Any
) -> tuple[Any, Any, Any]:
    """New estimate and doubt, [N], and drift."""
    surprise = seen - estimate
    excess = (surprise * surprise - doubt - error).sum() / level.sum()
    drift = drift + rate * (excess - drift)
    doubt = doubt + drift.clip(min=LEAST_DRIFT) * level
    gain = doubt / (doubt + error + TINY * level)
    return estimate + gain * surprise, doubt * (1.0 - gain), drift
