"""How often the intervals of the tables hold the truth, in normal numbers that are made up."""

import numpy as np

from benchmarks.results.summary import average, estimate, quotient, t_interval

# Standard deviations over seeds, as parts of the mean; environments take them in turn.
SPREADS = (0.1, 0.05, 0.2, 0.3)


def coverage(seeds: int, environments: int, trials: int, resamples: int) -> dict[str, float]:
    """Parts of the trials in which 95 % intervals held what they should.

    Args:
        seeds: of each environment and policy.
        environments: of the mean of ratios.
        trials: how often.
        resamples: of each interval.
    """
    rng = np.random.default_rng(0)
    spreads = np.resize(SPREADS, (environments, 1, 1))
    held = {"mean": 0, "mean, t": 0, "ratio": 0, "mean of ratios": 0}
    for _ in range(trials):
        # Both policies are equal: every mean and every ratio is 1.
        values = 1.0 + spreads * rng.standard_normal((environments, 2, seeds))
        pairs = [[estimate(group, rng, resamples) for group in pair] for pair in values]
        ratios = [quotient(top, bottom) for top, bottom in pairs]
        held["mean"] += _holds(pairs[0][0].interval)
        held["mean, t"] += _holds(t_interval(values[0, 0].tolist()))
        held["ratio"] += _holds(ratios[0].interval)
        held["mean of ratios"] += _holds(average(ratios).interval)
    return {name: count / trials for name, count in held.items()}


def _holds(ends: tuple[float, float] | None) -> bool:
    return ends is not None and ends[0] <= 1.0 <= ends[1]
