"""A number of energy, time or operations that says how it is known."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["counted", "simulated", "estimated", "measured"]


@dataclass(frozen=True)
class Figure:
    """A number with its unit, how it is known, and by what method; kinds are never added up.

    Attributes:
        value: the number, finite.
        unit: of the value, for instance "nJ".
        kind: "counted": operations of a real run, times constants; "simulated": a chip's model run
            on real spikes; "estimated": a model of the machine; "measured": its counters.
        method: what was counted, simulated, estimated or read, with its source.

    Raises:
        ValueError: if a field is none of these.
    """

    value: float
    unit: str
    kind: Kind
    method: str

    def __post_init__(self) -> None:
        """Check the fields."""
        if not math.isfinite(self.value):
            raise ValueError(f"value must be finite, got {self.value}: leave unknown figures out")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {list(get_args(Kind))}, got {self.kind!r}")
        if not self.method:
            raise ValueError("method must say how the figure is known, got an empty text")


def total(figures: Iterable[Figure], method: str) -> Figure:
    """The sum of figures of one kind and unit.

    Raises:
        ValueError: if there are none, or their kinds or units differ.
    """
    parts = list(figures)
    kinds = {(part.kind, part.unit) for part in parts}
    if len(kinds) != 1:
        raise ValueError(
            f"figures to add must be of one kind and one unit, got {sorted(kinds)}; report each "
            "kind for itself"
        )
    kind, unit = kinds.pop()
    return Figure(sum(part.value for part in parts), unit, kind, method)
