"""What of a report goes where on its page."""

from collections.abc import Sequence
from typing import get_args

from policies.energy.figures import Figure, Kind
from policies.report.grouping import grouped
from policies.report.page import Page, Section, Table, Tile
from policies.report.pictures import panels
from policies.report.records import Absent, Energy, LayerRecord, NetworkRecord, Report
from policies.report.statistics import FEW, RESAMPLES, Summary
from policies.report.text import NOTHING, interval, known, number, percent, size, spread, times

# A page has room for that many layers of a network; the JSON file has them all.
MOST_LAYERS = 12
_SAME = "Beside the dense network with the same hidden layers"
_OTHER = "Beside a dense network of another size"


def layout(report: Report) -> Page:
    """The page of a report."""
    spiking, dense = report.spiking, report.dense
    shown = [grouped(network.layers, MOST_LAYERS) for network in (spiking, dense)]
    return Page(
        title=report.title,
        subtitle=report.facts.get("subtitle", ""),
        tiles=_tiles(report),
        panels=panels(report, shown[0]),
        tables=(
            _comparison(_SAME if report.alike else _OTHER, spiking, dense),
            _energy(spiking, dense),
            _layers(report, *shown),
        ),
        sections=_sections(report),
    )


def _tiles(report: Report) -> tuple[Tile, ...]:
    spiking, dense = report.spiking, report.dense
    tiles = []
    if isinstance(spiking.returns, Summary):
        episodes = len(spiking.returns.values)
        detail = f"95 % interval: {interval(spiking.returns)}, n = {episodes}"
        tiles.append(Tile("mean return", number(spiking.returns.mean), detail))
    own, other = spiking.counted(), dense.counted()
    if own is not None:
        beside = "" if other is None else f"dense: {known(other)}"
        tiles.append(Tile("counted energy, a decision", known(own), beside))
    if own is not None and other is not None and other.value > 0:
        what = "zeros skipped in both" if dense.zeros_skipped else "all products in both"
        ratio = f"{number(own.value / other.value, 3)} x"
        tiles.append(Tile("energy beside the dense twin", ratio, what))
    rates = [layer.firing_rate for layer in spiking.layers if layer.firing_rate is not None]
    if rates:
        detail = f"{percent(min(rates))} to {percent(max(rates))} by layer"
        mean = percent(sum(rates) / len(rates))
        tiles.append(Tile("firing rate, mean over layers", mean, detail))
    tiles.append(
        Tile(
            "latency of a decision, here",
            known(spiking.latency.median),
            f"dense: {known(dense.latency.median)}",
        )
    )
    return tuple(tiles)


def _comparison(title: str, spiking: NetworkRecord, dense: NetworkRecord) -> Table:
    def row(label: str, *texts: str) -> tuple[str, ...]:
        return (label, *texts)

    both = (spiking, dense)
    rows = [
        row("return, mean (sd)", *(spread(network.returns) for network in both)),
        row("95 % interval of the mean, by bootstrap", *(interval(n.returns) for n in both)),
        row("decisions an episode, mean (sd)", *(_or_dash(n.lengths) for n in both)),
        row("latency of a decision, median (quartiles)", *(_latency(n) for n in both)),
        row("parameters", *(f"{network.parameters:,}" for network in both)),
        row("bytes of parameters and buffers", *(size(network.footprint) for network in both)),
        row("accumulates a decision", *(number(network.accumulates) for network in both)),
        row("multiply-accumulates a decision", *(number(n.multiply_accumulates) for n in both)),
        row(
            "products at all spike steps, zeros included",
            *(number(network.dense) for network in both),
        ),
    ]
    note = f"{spiking.title}: {spiking.source}. {dense.title}: {dense.source}, "
    note += (
        f"{number(dense.parameters / spiking.parameters, 3)} times the spiking one's parameters."
    )
    if not dense.zeros_skipped:
        note += (
            " Multiply-accumulates are all products of real numbers in both networks: zeros of an "
            "untrained one mean nothing."
        )
    columns = ("", spiking.title, dense.title)
    return Table(title, columns, tuple(rows), note=note)


def _latency(network: NetworkRecord) -> str:
    runner = network.latency.runner
    return f"{times(network.latency)}, {runner}" if runner else times(network.latency)


def _or_dash(value: Summary | Absent) -> str:
    return NOTHING if isinstance(value, Absent) else spread(value)


def _energy(spiking: NetworkRecord, dense: NetworkRecord) -> Table:
    others = {(energy.kind, energy.label): energy for energy in dense.energies}
    rows = []
    for energy in spiking.energies:
        other = others.pop((energy.kind, energy.label), None)
        rows.append(_energy_row(energy, other))
    rows += [_energy_row(None, energy) for energy in others.values()]
    rows.sort(key=lambda row: get_args(Kind).index(row[0]))
    columns = (
        "kind", "what", "spiking, a decision", "spiking, an episode", "dense, a decision",
        "dense, an episode", "how it is known",
    )  # fmt: skip
    note = "Rows of different kinds say different things and are never added up."
    return Table("Energy, each kind for itself", columns, tuple(rows), (1, 6), note)


def _energy_row(energy: Energy | None, other: Energy | None) -> tuple[str, ...]:
    one = energy or other
    assert one is not None
    cells = []
    for part in (energy, other):
        cells += [NOTHING] * 2 if part is None else [known(part.decision), known(part.episode)]
    how = [
        figure.method if isinstance(figure, Figure) else figure.why
        for part in (energy, other)
        if part is not None
        for figure in (part.decision,)
    ]
    return (one.kind, one.label, *cells, "; dense: ".join(dict.fromkeys(how)))


def _layers(report: Report, spiking: Sequence[LayerRecord], dense: Sequence[LayerRecord]) -> Table:
    rows = []
    for network, layers in (("spiking", spiking), ("dense", dense)):
        for layer in layers:
            rate = NOTHING if layer.firing_rate is None else percent(layer.firing_rate)
            counts = (layer.accumulates, layer.multiply_accumulates, layer.dense)
            energy = known(
                Figure(layer.energy_nj(report.costs), "nJ", "counted", report.costs.source)
            )
            rows.append((network, layer.name, rate, *(number(count) for count in counts), energy))
    columns = (
        "network", "layer", "firing rate", "accumulates", "multiply-accumulates", "all products",
        "energy",
    )  # fmt: skip
    note = (
        "Mean of a decision. Neurons stand with the layer before them; the firing rate of several "
        "layers is the mean over them. report.json lists every module."
    )
    return Table("Operations by layer", columns, tuple(rows), (1,), note)


def _sections(report: Report) -> tuple[Section, ...]:
    notes = list(report.notes)
    for network in (report.spiking, report.dense):
        if network.uncounted:
            notes.append(
                f"{network.title}: no counting rule covers {', '.join(network.uncounted)}; the "
                "counts leave them out."
            )
    notes += _intervals(report)
    latency = report.spiking.latency.median
    notes.append(f"Latency: {latency.kind}, {latency.method}. {_dense_latency(report)}")
    facts = tuple(f"{name}: {value}" for name, value in report.facts.items() if name != "subtitle")
    sections = (
        Section("What the comparison says", report.verdict),
        Section("What it does not say", report.caveats),
        Section("Assumptions and methods", tuple(notes)),
        Section("How this page was made", facts),
    )
    return tuple(section for section in sections if section.sentences)


def _intervals(report: Report) -> list[str]:
    """How the intervals of returns were made."""
    found = [n.returns for n in (report.spiking, report.dense) if isinstance(n.returns, Summary)]
    episodes = [len(returns.values) for returns in found if returns.low is not None]
    if not episodes:
        return []
    text = (
        f"Interval of the mean: percentile bootstrap, {RESAMPLES:,} resamples of "
        f"{' and '.join(str(n) for n in dict.fromkeys(episodes))} episodes."
    )
    if min(episodes) < FEW:
        text += f" Of fewer than {FEW} episodes it is too narrow: pass more with --episodes."
    return [text]


def _dense_latency(report: Report) -> str:
    method = report.dense.latency.median.method
    return "" if method == report.spiking.latency.median.method else f"Dense: {method}."
