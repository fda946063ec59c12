"""Numbers as people read them."""

import math

from policies.energy.figures import Figure
from policies.report.records import Absent, Latency
from policies.report.statistics import Summary

_PREFIXES = (("p", 1e-12), ("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("", 1.0), ("k", 1e3))
_SCALED = ("J", "s", "W")
NOTHING = "-"


def number(value: float, digits: int = 4) -> str:
    """Grouped by thousands, with that many significant digits: 190,912 and 0.1234."""
    if value == round(value):
        return f"{value:,.0f}"
    rounded = float(f"{abs(value):.{digits - 1}e}")
    whole = math.floor(math.log10(rounded)) + 1
    return f"{value:,.{min(max(digits - whole, 0), 8)}f}"


def quantity(value: float, unit: str) -> str:
    """A value with a unit prefix that keeps it between 1 and 1000: 1.23 uJ."""
    base = unit[-1:]
    prefix = dict(_PREFIXES).get(unit[:-1])
    if base not in _SCALED or prefix is None:
        return f"{number(value)} {unit}"
    if value == 0:
        return f"0 {unit}"
    absolute = abs(value) * prefix
    name, scale = _PREFIXES[0]
    for candidate in _PREFIXES:
        # A hair below: 999.96 would show as 1,000.
        if absolute >= candidate[1] * 0.9999:
            name, scale = candidate
    return f"{number(value * prefix / scale, 3)} {name}{base}"


def known(value: Figure | Absent) -> str:
    """A figure, or a dash where there is none."""
    return quantity(value.value, value.unit) if isinstance(value, Figure) else NOTHING


def spread(value: Summary | Absent) -> str:
    """Mean and standard deviation."""
    if isinstance(value, Absent):
        return value.why
    mean = number(value.mean)
    return mean if value.sd is None else f"{mean} (sd {number(value.sd, 3)})"


def interval(value: Summary | Absent) -> str:
    """The confidence interval of a mean."""
    if isinstance(value, Absent) or value.low is None or value.high is None:
        return NOTHING
    return f"{number(value.low)} to {number(value.high)}"


def times(latency: Latency) -> str:
    """Median and quartiles of a time."""
    unit = latency.median.unit
    median, low, high = (
        quantity(figure.value, unit) for figure in (latency.median, latency.low, latency.high)
    )
    return f"{median} ({low} to {high})"


def size(count: int) -> str:
    """Bytes in KiB or MiB."""
    if count < 1024:
        return f"{count} B"
    if count < 1024**2:
        return f"{number(count / 1024, 3)} KiB"
    return f"{number(count / 1024**2, 3)} MiB"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{number(100.0 * share, 3)} %"
