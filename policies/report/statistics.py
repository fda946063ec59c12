"""Mean, spread and confidence interval of a few numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_SEED = 0
# Below, an interval says that it is too narrow: of normal numbers it held the mean in 75 % of cases
# with 3 of them, in 84 % with 5, in 89 % with 10 and in 93 % with 20.
FEW = 10
# Numbers drawn at a time: 8 MB.
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Summary:
    """Numbers and what sums them up.

    Attributes:
        values: the numbers, at least one.
        mean: their mean.
        sd: sample standard deviation; None for a single number.
        low: lower end of the 95 % bootstrap confidence interval of the mean; None for one number.
        high: its upper end.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def summarize(values: Sequence[float]) -> Summary:
    """Sum numbers up.

    The interval is the percentile bootstrap's: the middle 95 % of the means of 10,000 resamples,
    drawn from a fixed seed. With few numbers it is too narrow: see `FEW`.

    Raises:
        ValueError: if there are none, or one is not finite.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    if not values:
        raise ValueError("values must hold at least one number, got none")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, got {list(values)}")
    numbers = np.asarray(values, dtype=np.float64)
    plain = tuple(numbers.tolist())
    if len(numbers) == 1:
        return Summary(plain, plain[0], None, None, None)
    means = _resampled_means(numbers)
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail]).tolist()
    return Summary(plain, float(numbers.mean()), float(numbers.std(ddof=1)), low, high)


def _resampled_means(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    rng, count = np.random.default_rng(_SEED), len(numbers)
    rows = max(_CHUNK // count, 1)
    means = [
        numbers[rng.integers(0, count, (min(rows, RESAMPLES - start), count))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)
