"""Last and best return of runs, and how far their means can be trusted.

The last return of a run is the mean of its last three evaluations at or before a budget of steps;
its best is its best evaluation there. Runs that have not reached the budget are in no mean.

Intervals are of the bootstrap over seeds: each environment and kind is resampled on its own
(strata), with one draw fewer than it has seeds. With as many draws as seeds the resampled means
scatter too little, by sqrt(1 - 1/n): 0.82 of what they should with three seeds.

The bootstrap is still too narrow for three seeds. Of normal numbers, three each, its 95 % interval
held the mean in 75 of 100 cases (it is the range of the three), the ratio of two means in 87, and
the mean of four such ratios in 92; with two each 50, 67 and 86. `python -m benchmarks.results
coverage` prints this. Student's t holds the mean in 95, if returns of seeds are normal, and is
nearly three times as wide.

Source: Rao and Wu, "Resampling inference with complex survey data", JASA 83, 1988, section 3.
"""

import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.results.hyperparameters import check_alike
from benchmarks.results.record import Record

LAST = 3
RESAMPLES = 10_000
LEVEL = 0.95
_SEED = 0

Measure = Literal["last", "best"]


class Outcome(NamedTuple):
    """A run within a budget.

    Attributes:
        record: the run.
        steps: its last evaluation at or before the budget.
        last: mean of its last three evaluations there, of fewer if it has no more.
        best: its best evaluation there.
        complete: whether it reached the budget, with three evaluations.
    """

    record: Record
    steps: int
    last: float
    best: float
    complete: bool


def outcome(record: Record, budget: int) -> Outcome:
    """What a run came to within a budget.

    Raises:
        ValueError: if it has no evaluation there.
    """
    within = record.until(budget)
    means = within.means
    complete = bool(record.steps[-1] >= budget) and len(means) >= LAST
    last, best = float(means[-LAST:].mean()), float(means.max())
    return Outcome(record, int(within.steps[-1]), last, best, complete)


class Estimate(NamedTuple):
    """A number and its bootstrap.

    Attributes:
        value: the number.
        draws: [resamples]; None if a group has only one seed.
    """

    value: float
    draws: NDArray[np.float64] | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The middle 95 % of the draws."""
        if self.draws is None:
            return None
        tail = (1.0 - LEVEL) / 2.0
        low, high = np.quantile(self.draws, [tail, 1.0 - tail]).tolist()
        return low, high


def estimate(
    values: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate:
    """Mean of numbers [n], n at least 1, and the means of n - 1 draws from them."""
    count = len(values)
    if count == 1:
        return Estimate(float(values[0]), None)
    picks = rng.integers(0, count, (resamples, count - 1))
    return Estimate(float(values.mean()), values[picks].mean(axis=1))


class Group(NamedTuple):
    """The runs of one environment and kind, by seed."""

    env: str
    kind: str
    outcomes: tuple[Outcome, ...]

    @property
    def done(self) -> tuple[Outcome, ...]:
        """Those that reached the budget."""
        return tuple(one for one in self.outcomes if one.complete)

    def values(self, measure: Measure) -> list[float]:
        """A number for each seed that reached the budget."""
        return [one.last if measure == "last" else one.best for one in self.done]

    def mean(self, measure: Measure) -> Estimate | None:
        """Their mean; None if none reached the budget."""
        values = np.array(self.values(measure))
        if not len(values):
            return None
        # A stream of its own: an interval does not change with what else was run.
        rng = np.random.default_rng([_SEED, zlib.crc32(f"{self.env}/{self.kind}".encode())])
        return estimate(values, rng)


def group(records: Sequence[Record], budget: int) -> list[Group]:
    """Runs by environment and kind; dense first, then spiking, then variants.

    Raises:
        ValueError: if one has no evaluation within the budget, or runs of one environment and kind
            have different hyperparameters.
    """
    check_alike(records)
    order = {"dense": 0, "spiking": 1}
    keys = {(one.env, order.get(one.kind, 2), one.kind) for one in records}
    found = []
    for env, _, kind in sorted(keys):
        runs = [one for one in records if (one.env, one.kind) == (env, kind)]
        runs.sort(key=lambda one: one.seed)
        found.append(Group(env, kind, tuple(outcome(one, budget) for one in runs)))
    return found


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval of the mean of normal numbers; None for fewer than two."""
    count = len(values)
    if count < 2:
        return None
    half = stats.t.ppf((1.0 + LEVEL) / 2.0, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    mean = float(np.mean(values))
    return mean - float(half), mean + float(half)


def ratio(above: Group, below: Group, measure: Measure) -> Estimate | None:
    """Mean of one group over that of another.

    None unless both have runs at the budget, and where a return of the lower one is not above 0,
    as a ratio says nothing there. Seeds are no pairs: equal seeds share no random number.
    """
    top, bottom = above.mean(measure), below.mean(measure)
    if top is None or bottom is None or min(below.values(measure)) <= 0.0:
        return None
    return quotient(top, bottom)


def quotient(top: Estimate, bottom: Estimate) -> Estimate:
    """One mean over another, which was drawn apart from it."""
    value = top.value / bottom.value
    if top.draws is None or bottom.draws is None:
        return Estimate(value, None)
    return Estimate(value, top.draws / bottom.draws)


def average(ratios: Sequence[Estimate]) -> Estimate:
    """Mean of ratios, each environment counting once; the environments themselves are fixed."""
    value = float(np.mean([one.value for one in ratios]))
    draws = [one.draws for one in ratios if one.draws is not None]
    if len(draws) < len(ratios):
        return Estimate(value, None)
    return Estimate(value, np.mean(draws, axis=0))
