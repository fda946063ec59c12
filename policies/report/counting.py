"""Counts of a network over many inputs, and the counted energy of its decisions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from policies.energy.constants import OperationCosts
from policies.energy.count import OperationCount, count_operations
from policies.energy.figures import Figure
from policies.energy.layer_count import LayerCount, Rule
from policies.report.records import Absent, Energy, LayerRecord
from policies.report.statistics import Summary

SKIPPED, ALL = "zeros skipped", "all products"


def count_batches(
    network: nn.Module,
    batches: Iterable[tuple[Any, ...]],
    rules: Mapping[type[nn.Module], Rule] | None = None,
) -> OperationCount:
    """Count a network's operations on batches of inputs, mean a sample.

    Args:
        network: its forward takes the inputs of a batch.
        batches: inputs; the first of each is [B, ...], or a list or mapping of such.
        rules: see `count_operations`.

    Raises:
        ValueError: if there are no batches.
    """
    found: list[tuple[int, OperationCount]] = []
    for inputs in batches:
        found.append((_samples(inputs[0]), count_operations(network, *inputs, rules=rules)))
    return mean_count(found)


def mean_count(found: Sequence[tuple[int, OperationCount]]) -> OperationCount:
    """The mean of counts over batches of so many samples each.

    Raises:
        ValueError: if there are none.
    """
    if not found:
        raise ValueError("there must be at least one batch of inputs to count on, got none")
    samples = sum(size for size, _ in found)
    weighted = [(size / samples, count) for size, count in found]
    names = dict.fromkeys(name for _, count in weighted for name in count.layers)
    uncounted = dict.fromkeys(name for _, count in weighted for name in count.uncounted)
    return OperationCount({name: _mean(name, weighted) for name in names}, tuple(uncounted))


def _samples(first: Any) -> int:
    while not isinstance(first, Tensor):
        first = next(iter(first.values() if isinstance(first, Mapping) else first))
    return len(first)


def _mean(name: str, weighted: list[tuple[float, OperationCount]]) -> LayerCount:
    parts = [(share, count.layers[name]) for share, count in weighted if name in count.layers]
    rates = [(share, part.firing_rate) for share, part in parts if part.firing_rate is not None]
    return replace(
        parts[0][1],
        accumulates=sum(share * part.accumulates for share, part in parts),
        multiply_accumulates=sum(share * part.multiply_accumulates for share, part in parts),
        dense=sum(share * part.dense for share, part in parts),
        firing_rate=sum(share * rate for share, rate in rates) if rates else None,
    )


def layer_records(count: OperationCount, *, zeros_skipped: bool) -> tuple[LayerRecord, ...]:
    """A record of each layer that computes or fires; without zeros skipped, all products count."""
    records = []
    for name, layer in count.layers.items():
        if layer.dense == 0 and layer.firing_rate is None:
            continue  # looks something up
        records.append(
            LayerRecord(
                name,
                layer.accumulates if zeros_skipped else 0.0,
                layer.multiply_accumulates if zeros_skipped else layer.dense,
                layer.dense,
                layer.firing_rate,
                layer.kind,
            )
        )
    return tuple(records)


def counted_energies(
    layers: Iterable[LayerRecord],
    costs: OperationCosts,
    lengths: Summary | Absent,
    *,
    zeros_skipped: bool,
    spikes: bool,
) -> tuple[Energy, ...]:
    """Counted energy of a decision and of an episode.

    Args:
        layers: what was counted.
        costs: energy of an operation.
        lengths: decisions of an episode.
        zeros_skipped: whether products with a zero were left out.
        spikes: whether the network spikes.

    Returns:
        a row with zeros skipped, where that is known; for a network without spikes also one with
        all its products.
    """
    found = tuple(layers)
    method = (
        f"operations x {costs.multiply_accumulate_pj:g} pJ a multiply-accumulate and "
        f"{costs.accumulate_pj:g} pJ an accumulate ({costs.source})"
    )
    rows = []
    if zeros_skipped:
        rows.append(_row(SKIPPED, sum(layer.energy_nj(costs) for layer in found), method, lengths))
    if not spikes:
        every = sum(layer.dense for layer in found) * costs.multiply_accumulate_pj / 1000.0
        rows.append(_row(ALL, every, method, lengths))
    return tuple(rows)


def _row(label: str, nj: float, method: str, lengths: Summary | Absent) -> Energy:
    decision = Figure(nj, "nJ", "counted", method)
    return Energy("counted", label, decision, times_length(decision, lengths))


def times_length(decision: Figure, lengths: Summary | Absent) -> Figure | Absent:
    """A decision's energy for a whole episode of mean length, of the same kind."""
    if isinstance(lengths, Absent):
        return lengths
    method = f"{decision.method}; x {lengths.mean:g} decisions an episode"
    return Figure(decision.value * lengths.mean, decision.unit, decision.kind, method)


def size_of(network: nn.Module) -> tuple[int, int]:
    """NeuroBench's ParameterCount and Footprint, bytes of parameters and buffers."""
    parameters, buffers = list(network.parameters()), list(network.buffers())
    footprint = sum(part.numel() * part.element_size() for part in parameters + buffers)
    return sum(parameter.numel() for parameter in parameters), footprint
