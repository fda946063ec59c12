"""What the counted energies of a spiking network and its dense twin say, in sentences."""

from dataclasses import dataclass
from typing import Any

from policies.energy.break_even import DATA_MOVEMENT, BreakEven, break_even
from policies.energy.constants import OperationCosts
from policies.energy.count import OperationCount
from policies.report.counting import ALL, SKIPPED
from policies.report.text import number, percent


@dataclass(frozen=True)
class Verdict:
    """Sentences for a report, and the numbers in them.

    Attributes:
        sentences: the ratio of energies and the break-even firing rate.
        caveats: what is left out.
        numbers: by name, for the JSON file.
    """

    sentences: tuple[str, ...]
    caveats: tuple[str, ...]
    numbers: dict[str, Any]


def compare(
    spiking: OperationCount, dense: OperationCount, costs: OperationCosts, *, zeros_skipped: bool
) -> Verdict:
    """Compare counts.

    Args:
        spiking: of the spiking network.
        dense: of the dense one.
        costs: energy of an operation.
        zeros_skipped: whether the dense one's zeros mean something: it is trained.
    """
    ratios = {ALL: _ratio(spiking.with_zeros(), dense.with_zeros(), costs)}
    text = (
        f"{number(ratios[ALL], 3)} times the dense network's, all products of real numbers charged "
        "in both"
    )
    if zeros_skipped:
        ratios[SKIPPED] = _ratio(spiking, dense, costs)
        text += f", and {number(ratios[SKIPPED], 3)} times with zeros skipped in both"
    # Without an encoder or decoder there is nothing to charge or to leave out.
    coded = any(layer.kind in ("encoder", "decoder") for layer in spiking.layers.values())
    what = "a spiking decision, coding included," if coded else "a spiking decision"
    sentences = [f"Counted arithmetic of {what} costs {text}."]
    numbers: dict[str, Any] = {"energy ratio": ratios}
    for coding in (True, False) if coded else (False,):
        try:
            found = break_even(spiking, dense, coding=coding, costs=costs)
        except ValueError:
            sentences.append(
                "No linear layer has spikes as input, so no firing rate decides the energy."
            )
            break
        charged = "coding charged" if coding else "coding left out"
        numbers[f"break-even, {charged}" if coded else "break-even"] = found
        sentences.append(_sentence(found, f", {charged}" if coded else ""))
    return Verdict(tuple(sentences), _caveats(), numbers)


def _ratio(spiking: OperationCount, dense: OperationCount, costs: OperationCosts) -> float:
    return spiking.energy(costs).value / dense.energy(costs).value


def _sentence(found: BreakEven, charged: str) -> str:
    rate, ran = found.rate.value, found.input_rate.value
    if rate <= 0:
        where = "there is none: spiking costs more at any rate"
    elif rate >= 1:
        where = "there is none: spiking costs less at any rate"
    else:
        where = f"{percent(rate)} of inputs a spike step"
    return (
        f"Break-even firing rate, all products of real numbers in both{charged}: {where}; the "
        f"layers' inputs fired at {percent(ran)} here."
    )


def _caveats() -> tuple[str, ...]:
    return (
        "Counted energy is that of arithmetic. Fetching weights and membrane potentials from "
        "memory costs more than adding them and is in no count here.",
        f"{DATA_MOVEMENT.text} ({DATA_MOVEMENT.source})",
        "The dense network's operations are counted in the same number format as the spiking one's;"
        " quantized, it would cost less.",
    )
