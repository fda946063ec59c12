"""Receptive fields in compiled loops (CPU): exponents of their responses, and all gradients.

The exponential between is PyTorch's. Rows hold all F * P neurons, feature by feature.
"""

from typing import Any

import numpy as np

from policies.kernels.jit import compiled

F0 = np.float32(0.0)


@compiled
def exponents(obs: Any, fields: Any, widths: Any, least: Any, out: Any) -> None:
    """-(obs - field)^2 / (2 width^2), [B, F * P]; NaN where something is NaN or infinite.

    `obs` is [B, F], `fields` and `widths` are [F * P], `least` is the smallest variance.
    """
    batch, size = out.shape
    per = size // obs.shape[1]
    z, variance = np.empty(size, np.float32), np.empty(size, np.float32)
    for n in range(size):
        square = widths[n] * widths[n]
        variance[n] = least if square < least else square
    for b in range(batch):
        for f in range(obs.shape[1]):
            for p in range(per):
                z[f * per + p] = obs[b, f]
        for n in range(size):
            distance = z[n] - fields[n]
            exponent = np.float32(-0.5) * (distance * distance) / variance[n]
            out[b, n] = exponent + F0 * (distance + widths[n])


@compiled
def gradients(
    obs: Any,
    fields: Any,
    widths: Any,
    least: Any,
    response: Any,
    grad: Any,
    of_obs: Any,
    of_fields: Any,
    of_widths: Any,
) -> None:
    """Gradients of `obs`, `fields` and `widths` from those of the responses, `grad` [B, F * P].

    With d = obs - field and w the width: d response / d obs = -response d / w^2, and
    d response / d w = response d^2 / w^3, but 0 where the variance is held at `least`.
    """
    batch, size = response.shape
    features = obs.shape[1]
    per = size // features
    z, variance = np.empty(size, np.float32), np.empty(size, np.float32)
    slope, towards = np.empty(size, np.float32), np.empty(size, np.float32)
    total, total_widths = np.zeros(size, np.float64), np.zeros(size, np.float64)
    for n in range(size):
        square = widths[n] * widths[n]
        variance[n] = least if square < least else square
        slope[n] = F0 if square < least else widths[n] / variance[n]
    for b in range(batch):
        for f in range(features):
            for p in range(per):
                z[f * per + p] = obs[b, f]
        for n in range(size):
            distance = z[n] - fields[n]
            towards[n] = grad[b, n] * response[b, n] * distance / variance[n]
            total[n] = total[n] + towards[n]
            total_widths[n] = total_widths[n] + towards[n] * distance * slope[n]
        for f in range(features):
            away = F0
            for p in range(per):
                away -= towards[f * per + p]
            of_obs[b, f] = away
    for n in range(size):
        of_fields[n] = total[n]
        of_widths[n] = total_widths[n]
