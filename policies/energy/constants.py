"""Energy of one arithmetic operation, by process and number format, each with its source.

These are costs of arithmetic alone. Fetching a weight or a membrane potential from memory costs
more than adding it: see `policies.energy.break_even`.
"""

from dataclasses import dataclass

_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm, 0.9 V"
_JOUPPI = "Jouppi et al., ISCA 2021 (TPUv4i), 7 nm"


@dataclass(frozen=True)
class OperationCosts:
    """Energy of a multiply-accumulate and of an accumulate.

    Attributes:
        name: key in COSTS.
        multiply_accumulate_pj: pJ of a multiplication and an addition.
        accumulate_pj: pJ of an addition.
        source: where the numbers are from.
    """

    name: str
    multiply_accumulate_pj: float
    accumulate_pj: float
    source: str

    @property
    def text(self) -> str:
        """The constants in words."""
        return (
            f"{self.multiply_accumulate_pj:g} pJ a multiply-accumulate, {self.accumulate_pj:g} pJ "
            f"an accumulate ({self.source})"
        )

    def energy_nj(self, accumulates: float, multiply_accumulates: float) -> float:
        """Energy of so many operations, nJ."""
        multiply = multiply_accumulates * self.multiply_accumulate_pj
        return (multiply + accumulates * self.accumulate_pj) / 1000.0


def _costs(name: str, multiply: float, add: float, source: str) -> OperationCosts:
    return OperationCosts(name, round(multiply + add, 6), add, source)


# The first is the default: papers on spiking networks compare with it.
COSTS = {
    costs.name: costs
    for costs in (
        _costs("45nm-float32", 3.7, 0.9, _HOROWITZ),
        _costs("45nm-float16", 1.1, 0.4, _HOROWITZ),
        _costs("45nm-int32", 3.1, 0.1, _HOROWITZ),
        _costs("45nm-int8", 0.2, 0.03, _HOROWITZ),
        _costs("7nm-float32", 1.31, 0.38, _JOUPPI),
        _costs("7nm-float16", 0.34, 0.16, _JOUPPI),
        _costs("7nm-int32", 1.48, 0.03, _JOUPPI),
        _costs("7nm-int8", 0.07, 0.007, _JOUPPI),
    )
}
DEFAULT_COSTS = COSTS["45nm-float32"]


def costs_named(name: str) -> OperationCosts:
    """The preset of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in COSTS:
        raise ValueError(f"costs must be one of {list(COSTS)}, got {name!r}")
    return COSTS[name]
