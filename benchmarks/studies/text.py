"""Numbers of several seeds as text."""

from collections.abc import Sequence

import numpy as np

from benchmarks.energy import number
from policies.report.statistics import summarize


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean, 95 % bootstrap interval over seeds, and how many; too narrow with so few seeds."""
    found = summarize(values)
    if found.low is None or found.high is None:
        return f"{number(found.mean, digits)} (1)"
    low, high = number(found.low, digits), number(found.high, digits)
    return f"{number(found.mean, digits)} [{low}, {high}] ({len(values)})"


def mean_of(values: Sequence[float | None], digits: int = 0) -> str:
    """The mean; NaN with a None, which is what JSON makes of NaN."""
    return number(float(np.mean(np.array(values, np.float64))), digits)
