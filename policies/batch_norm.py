"""Batch normalization between a spiking layer's weights and its neurons, with filtered statistics.

In training mode and with gradients on, currents x = W s [T, B, N] are normalized by their batch:

    y = gain (x - mean) / sqrt(var + eps) + bias

where `bias` is the linear layer's own. Everywhere else (acting, target networks, SAC's targets) the
moving statistics take the batch's place, and the norm is a constant map that is multiplied into the
weights: nothing is left of it for the neurons, kernels, event-driven inference or a chip.

The moving statistics are the estimates of one Kalman filter a neuron, for the mean and for the
variance each. What a batch shows, m, is the true value plus noise of variance r, which the spread
of the batch's samples tells; the true value itself moves from one update to the next, because the
weights do, by noise of variance drift * r. With the estimate e and its own variance p ("doubt"):

    p <- p + drift r        K = p / (p + r)        e <- e + K (m - e)        p <- (1 - K) p

The momentum K is near 1 after a jump and small where nothing moves. The drift of a layer is not
known, but shows in the surprises m - e: those of two updates are uncorrelated where K is right, of
the same sign where it is too small and of opposite signs where it is too large. So with their
correlation c over the layer's neurons, drift <- drift exp(RATE c). (That also corrects r, which is
too large in deep layers: the norms before them take some of the noise out of a batch.)

Moving statistics are parameters without gradient, not buffers: a target network's weights are a
moving average of the network's, and its statistics have to be averages of the same kind, which
Stable-Baselines3's and d3rlpy's target updates make of parameters.

Source: Xu et al. 2026 (CaRe-BN); Zheng et al. 2021 (statistics over spike steps and batch).
Differs: CaRe-BN's release takes a moving mean of the squared surprises for p + drift r, though they
hold r as well, so that its K stays above about 1/2.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policies.kernels.batch_norm import EPS, Moments, moments
from policies.kernels.guard import plain_only, without_autocast

RATE = 0.1
# Bounds of the drift: K between 3 % and 99 %.
LEAST_DRIFT, MOST_DRIFT = 1e-3, 100.0
FIRST_DRIFT = 0.5
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
    surprise_mean: Tensor
    surprise_var: Tensor
    drift: Tensor

    def __init__(self, features: int, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((features,), gain))
        self.moving_mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.moving_var = nn.Parameter(torch.ones(features), requires_grad=False)
        for name in ("doubt_mean", "doubt_var", "surprise_mean", "surprise_var"):
            self.register_buffer(name, torch.zeros(features))
        self.register_buffer("drift", torch.zeros(2))  # of the mean and of the variance
        self.doubt()
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
        state = [
            self.moving_mean, self.doubt_mean, self.surprise_mean,
            self.moving_var, self.doubt_var, self.surprise_var, self.drift,
        ]  # fmt: skip
        # NumPy's calls take a third of the time of PyTorch's, which is all that matters here.
        if self.gain.device.type == "cpu" and not plain_only():
            arrays = [x.detach().numpy() for x in state]
            new = _filtered([x.detach().numpy() for x in found], arrays)
            if all(bool(abs(x).max() < float("inf")) for x in new):
                for array, value in zip(arrays, new, strict=True):
                    array[...] = value
            return
        new = _filtered(found, state)
        # No branch on the data: it would wait for the device.
        sound = torch.stack([torch.isfinite(x).all() for x in new]).all()
        for buffer, value in zip(state, new, strict=True):
            buffer.copy_(torch.where(sound, value, buffer))

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
        self.surprise_mean.zero_()
        self.surprise_var.zero_()
        self.drift.fill_(FIRST_DRIFT)

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
    """Give a SpikeLinear a norm: currents start around 0, half a threshold their deviation.

    PopSAN's neurons then fire in a tenth of the steps, about as often as without a norm. CaRe-BN's
    release starts biases at half a threshold: they fire four times as often, and a smooth function
    is learned less well (mean squared error 0.016 in place of 0.010 after 300 updates).
    """
    layer.norm = CurrentNorm(layer.out_features, v_threshold / 2.0)
    nn.init.zeros_(layer.bias)


def _filtered(found: Sequence[Any], state: Sequence[Any]) -> list[Any]:
    """One step of both filters, for tensors and arrays alike: see the head of this file.

    Args:
        found: a batch's Moments.
        state: estimate, doubt, last surprise, [N] each, of the mean and then of the variance; the
            drifts, [2].

    Returns:
        the new state.
    """
    drift = state[6] * 1.0
    new: list[Any] = []
    for kind in (0, 1):
        estimate, doubt, last = state[3 * kind : 3 * kind + 3]
        surprise, noise = found[kind] - estimate, found[2 + kind]
        scale = ((surprise * surprise).sum() * (last * last).sum()) ** 0.5
        pace = RATE * (surprise * last).sum() / (scale + TINY)
        drift[kind] = (drift[kind] * math.e**pace).clip(LEAST_DRIFT, MOST_DRIFT)
        doubt = doubt + drift[kind] * noise
        gain = (doubt + TINY) / (doubt + noise + TINY)
        new += [estimate + gain * surprise, doubt * (1.0 - gain), surprise]
    return [*new, drift]
