"""Means and their bootstrap intervals."""

import tracemalloc

import numpy as np
import pytest

from policies.report import summarize


def test_two_values_give_every_mean_that_resamples_can_have() -> None:
    """Resamples of (0, 1) have the means 0, 0.5 and 1, in a quarter, half and quarter of cases."""
    found = summarize([0.0, 1.0])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.sd == pytest.approx(0.5**0.5)
    assert found.values == (0.0, 1.0)


def test_many_values_agree_with_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    found = summarize(values.tolist())
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * values.std(ddof=1) / 20.0
    assert found.mean == pytest.approx(values.mean())
    assert found.mean - found.low == pytest.approx(half, rel=0.05)
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert summarize(values.tolist()) == found


def test_one_value_and_equal_values() -> None:
    one = summarize([7.0])
    assert (one.mean, one.sd, one.low, one.high) == (7.0, None, None, None)
    same = summarize([2.0] * 5)
    assert (same.sd, same.low, same.high) == (0.0, 2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values must"):
        summarize(values)


def test_many_values_need_little_memory() -> None:
    tracemalloc.start()
    found = summarize(np.random.default_rng(0).normal(size=10_000).tolist())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low is not None
    assert found.low < found.mean
    assert peak < 50e6
