"""What a report's pictures show."""

from collections.abc import Iterable, Sequence

from policies.energy.figures import Figure
from policies.report.grouping import grouped
from policies.report.page import Panel, Series
from policies.report.records import LayerRecord, Report
from policies.report.statistics import Summary

# Bars of a network in the picture of operations.
MOST_BARS = 8


def panels(report: Report, spiking: Sequence[LayerRecord]) -> tuple[tuple[Panel, ...], ...]:
    """Rows of pictures: rates and operations by layer; returns, and energy, each kind for itself.

    Args:
        report: the numbers.
        spiking: layers of its spiking network, grouped, whose rates are shown.
    """
    both = (report.spiking.layers, report.dense.layers)
    layers = [_operations(*(grouped(_working(found), MOST_BARS) for found in both))]
    runs = [*_energies(report)]
    fires = [layer for layer in spiking if layer.firing_rate is not None]
    if fires:
        rates = tuple(100.0 * (layer.firing_rate or 0.0) for layer in fires)
        names = tuple(layer.name for layer in fires)
        layers.insert(0, Panel("Firing rate by layer", "%", names, (Series("spiking", rates),)))
    returns = _returns(report)
    if returns is not None:
        runs.insert(0, returns)
    return tuple(tuple(row) for row in (layers, runs) if row)


def _working(layers: Sequence[LayerRecord]) -> list[LayerRecord]:
    return [layer for layer in layers if layer.accumulates or layer.multiply_accumulates]


def _operations(own: Sequence[LayerRecord], other: Sequence[LayerRecord]) -> Panel:
    labels = (
        *(layer.name for layer in own),
        *(f"dense: {layer.name}" for layer in other),
    )
    gap_own: tuple[float | None, ...] = (None,) * len(own)
    gap_other: tuple[float | None, ...] = (None,) * len(other)
    adds = tuple(layer.accumulates or None for layer in own)
    products = tuple(layer.multiply_accumulates or None for layer in own)
    theirs = tuple(layer.multiply_accumulates + layer.accumulates for layer in other)
    return Panel(
        "Operations by layer",
        "a decision",
        labels,
        (
            Series("accumulates", adds + gap_other, 0),
            Series("multiply-accumulates", products + gap_other, 2),
            Series("dense twin", gap_own + theirs, 1),
        ),
    )


def _returns(report: Report) -> Panel | None:
    found = [
        (role, name, network.returns)
        for role, name, network in (
            (0, "spiking", report.spiking),
            (1, "dense", report.dense),
        )
        if isinstance(network.returns, Summary)
    ]
    if not found:
        return None
    count = max(len(returns.values) for _, _, returns in found)
    series = tuple(
        Series(name, returns.values + (None,) * (count - len(returns.values)), role, returns.mean)
        for role, name, returns in found
    )
    labels = tuple(str(episode) for episode in range(1, count + 1))
    axis = "episode (dashed: mean)"
    return Panel("Return by episode", axis, labels, series, "points", legend=len(series) > 1)


def _energies(report: Report) -> Iterable[Panel]:
    """One panel a kind that is known at all."""
    kinds = dict.fromkeys(energy.kind for energy in report.spiking.energies)
    for kind in kinds:
        bars: list[tuple[str, float, int]] = []
        unit = ""
        for name, role, network in (("spiking", 0, report.spiking), ("dense", 1, report.dense)):
            for energy in network.energies:
                if energy.kind == kind and isinstance(energy.decision, Figure):
                    unit = unit or energy.decision.unit
                    if energy.decision.unit != unit:
                        raise ValueError(
                            f"{kind} energies of a decision must share a unit, got {unit} and "
                            f"{energy.decision.unit}"
                        )
                    bars.append((f"{name}, {energy.label}", energy.decision.value, role))
        if not bars:
            continue
        series = tuple(
            Series(name, tuple(v if r == role else None for _, v, r in bars), role)
            for name, role in (("spiking", 0), ("dense", 1))
        )
        labels = tuple(label for label, _, _ in bars)
        title = f"{kind.capitalize()} energy"
        yield Panel(title, f"{unit} a decision", labels, series, legend=False)
