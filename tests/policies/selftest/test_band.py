"""Mean returns that pass: wide enough for rounding, narrow enough for faults."""

import math

import numpy as np
import pytest

from policies.selftest.band import SLACK, band_of


def test_the_same_returns_in_all_replays_leave_the_slack() -> None:
    band = band_of([[100.0, 300.0]] * 3, 2)
    assert band.mean == 200.0
    assert band.high - band.mean == pytest.approx(SLACK * 200.0)
    assert band.mean - band.low == pytest.approx(SLACK * 200.0)
    assert band.holds(200.0)
    assert not band.holds(math.nan)
    assert not band.holds(190.0)


def test_episodes_that_differ_cost_no_power() -> None:
    """Only what differs between replays of an episode widens the band."""
    rng = np.random.default_rng(0)
    starts = rng.normal(-150.0, 80.0, 20)
    replays = starts + rng.normal(0.0, 0.1, (10, 20))
    band = band_of(replays.tolist(), 20)
    assert band.high - band.low < 2 * (SLACK * abs(band.mean) + 0.2)


@pytest.mark.parametrize("kind", ["normal", "falls"])
def test_sound_machines_pass(kind: str) -> None:
    """Chaotic bodies: what another machine plays is drawn anew, and not one in 500 fails."""
    rng = np.random.default_rng(1)

    def play(*shape: int) -> np.ndarray:
        if kind == "normal":
            return rng.normal(3_000.0, 600.0, shape)
        return np.where(rng.random(shape) < 0.1, 500.0, 3_300.0) + rng.normal(0.0, 20.0, shape)

    failed = 0
    for _ in range(10):
        band = band_of(play(10, 20).tolist(), 20)
        means = play(200, 20).mean(axis=1)
        failed += sum(not band.holds(float(mean)) for mean in means)
    assert failed <= 4


def test_a_body_that_falls_is_caught() -> None:
    rng = np.random.default_rng(2)
    band = band_of(rng.normal(3_000.0, 600.0, (10, 20)).tolist(), 20)
    assert not band.holds(2_000.0)
    assert not band.holds(4_000.0)


def test_fewer_episodes_widen_the_band() -> None:
    rng = np.random.default_rng(3)
    returns = rng.normal(3_000.0, 600.0, (10, 20)).tolist()
    few, all_of_them = band_of(returns, 5), band_of(returns, 20)
    assert few.high - few.low > 1.5 * (all_of_them.high - all_of_them.low)
    assert few.mean == pytest.approx(float(np.mean(np.array(returns)[:, :5])))


@pytest.mark.parametrize(
    ("returns", "episodes", "message"),
    [
        ([[1.0], [1.0]], 1, "3 or more replays"),
        ([1.0, 2.0, 3.0], 1, "3 or more replays"),
        ([[1.0]] * 3, 2, "episodes must be 1 to 1"),
        ([[1.0]] * 3, 0, "episodes must be 1 to 1"),
    ],
)
def test_bad_input(returns: list[list[float]], episodes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        band_of(returns, episodes)
