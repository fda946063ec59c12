"""Which mean returns a sound installation may give on episodes whose returns are known.

The same seeds are played again, so most of what makes episodes differ is the same in both. What is
left is rounding: it differs from machine to machine, a spike flips, and in a body that falls or
runs, one flipped spike changes the rest of the episode. How much that moves returns is measured:
when a file is packed, the same episodes are played several times, each time with other changes in
the weights' seventh digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A sound installation is taken for a broken one about once in so many runs.
FALSE_ALARM = 1e-4
# Part of the mean that is always let pass: libraries of other versions, and falls that are too rare
# to have been seen.
SLACK = 0.03
# Relative size of the changes in weights: about that of rounding in a sum of a few hundred terms.
JITTER = 1e-6
# With fewer plays, what rounding does is not known well enough.
FEWEST_REPLAYS = 3
_RESAMPLES = 100_000
_SEED = 0


@dataclass(frozen=True)
class Band:
    """Mean returns that pass.

    Attributes:
        mean: the expected one.
        low: the lowest that passes.
        high: the highest; above it, too, something is not as it was.
    """

    mean: float
    low: float
    high: float

    def holds(self, mean: float) -> bool:
        """Whether a mean return passes; NaN does not."""
        return self.low <= mean <= self.high


def band_of(returns: Sequence[Sequence[float]], episodes: int) -> Band:
    """The mean returns that pass, of the first `episodes` episodes.

    Half of the width is the larger of the two ends of a bootstrap: means of as many deviations from
    an episode's mean over its replays as there are episodes, widened for the mean itself being
    measured, and `SLACK` of the mean.

    Args:
        returns: of each replay, of each episode, [M, N], M >= 3; the same seeds in each replay.
        episodes: how many count, 1 to N.

    Raises:
        ValueError: if there are too few replays, or not as many episodes.
    """
    values = np.array(returns, dtype=np.float64)
    if values.ndim != 2 or len(values) < FEWEST_REPLAYS:
        raise ValueError(
            f"returns must hold {FEWEST_REPLAYS} or more replays of the same episodes, got an "
            f"array of shape {values.shape}"
        )
    if not 1 <= episodes <= values.shape[1]:
        raise ValueError(
            f"episodes must be 1 to {values.shape[1]}, those with known returns, got {episodes}"
        )
    replays = len(values)
    mean = float(values[:, :episodes].mean())
    # Deviations from a mean that they are part of are too small.
    deviations = (values - values.mean(axis=0)) * np.sqrt(replays / (replays - 1))
    spread = _extreme_mean(deviations.ravel(), episodes) * np.sqrt(1 + 1 / replays)
    half = float(spread) + SLACK * abs(mean)
    return Band(mean, mean - half, mean + half)


def _extreme_mean(deviations: NDArray[np.float64], count: int) -> float:
    """How far from 0 the mean of `count` of them is at most, but for false alarms."""
    rng = np.random.default_rng(_SEED)
    sums = np.zeros(_RESAMPLES)
    for _ in range(count):
        sums += rng.choice(deviations, _RESAMPLES)
    low, high = np.quantile(sums / count, [FALSE_ALARM / 2, 1 - FALSE_ALARM / 2])
    return float(max(-low, high, 0.0))
