"""Numbers as people read them."""

import pytest

from policies.report import Absent, summarize
from policies.report.text import interval, known, number, percent, quantity, size, spread
from tests.policies.report.common import figure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (3.0, "3"), (190912.0, "190,912"), (190912.4, "190,912"), (0.12345, "0.1235"),
        (-302.19, "-302.2"), (9999.96, "10,000"), (1234567.8, "1,234,568"),
    ],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (173.1, "nJ", "173 nJ"), (0.0184, "nJ", "18.4 pJ"), (8920.0, "nJ", "8.92 uJ"),
        (999.96, "nJ", "1.00 uJ"), (3.6e6, "J", "3,600 kJ"), (84.3, "us", "84.3 us"),
        (4110.0, "us", "4.11 ms"), (0.0, "nJ", "0 nJ"), (5.0, "spikes", "5 spikes"),
        (-2500.0, "mJ", "-2.50 J"),
    ],
)  # fmt: skip
def test_quantities_choose_their_prefix(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_what_is_not_known() -> None:
    nothing = Absent("not known: train one")
    assert known(nothing) == interval(nothing) == interval(summarize([1.0])) == "-"
    assert spread(nothing) == "not known: train one"
    assert spread(summarize([2.0])) == "2"
    assert known(figure(1.5)) == "1.50 nJ"


def test_sizes_and_shares() -> None:
    assert [size(n) for n in (1023, 2048, 3 * 1024**2)] == ["1023 B", "2 KiB", "3 MiB"]
    assert percent(0.253) == "25.3 %"
