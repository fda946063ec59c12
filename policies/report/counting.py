"""Counts of a network over many inputs, and the counted energy of its decisions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from policies.energy.constants import OperationCosts
from policies.energy.count import Norms, OperationCount, count_operations, first_tensor
from policies.energy.figures import Figure
from policies.energy.layer_count import LayerCount, Rule
from policies.report.records import Absent, Energy, LayerRecord
from policies.report.statistics import Summary

SKIPPED, ALL = "zeros skipped", "all products"
# In both networks: some algorithms give a dense policy batch norms that its spiking one lacks.
NORMS: Norms = "folded"


def count_batches(
    network: nn.Module,
    batches: Iterable[tuple[Any, ...]],
    rules: Mapping[type[nn.Module], Rule] | None = None,
) -> OperationCount:
    """Count a network's operations on batches of inputs, mean a sample; batch norms are folded.

    Args:
        network: its forward takes the inputs of a batch.
        batches: inputs; the first of each is [B, ...], or a list or mapping of such.
        rules: see `count_operations`.

    Raises:
        ValueError: if there are no batches.
    """
    found: list[tuple[int, OperationCount]] = []
    for inputs in batches:
        count = count_operations(network, *inputs, rules=rules, norms=NORMS)
        found.append((len(first_tensor(inputs)), count))
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


def _mean(name: str, weighted: list[tuple[float, OperationCount]]) -> LayerCount:
    parts = [(share, count.layers[name]) for share, count in weighted if name in count.layers]
    rates = [(share, part.firing_rate) for share, part in parts if part.firing_rate is not None]
    return replace(
        parts[0][1],
        accumulates=sum(share * part.accumulates for share, part in parts),
        multiply_accumulates=sum(share * part.multiply_accumulates for share, part in parts),
        dense=sum(share * part.dense for share, part in parts),
        slots=sum(share * part.slots for share, part in parts),
        firing_rate=sum(share * rate for share, rate in rates) if rates else None,
    )


def layer_records(count: OperationCount, *, zeros_skipped: bool) -> tuple[LayerRecord, ...]:
    """A record of each layer that computes or fires.

    Args:
        count: of a decision.
        zeros_skipped: False: all products of real numbers count, see `OperationCount.with_zeros`.
    """
    records = []
    shown = count if zeros_skipped else count.with_zeros()
    for name, layer in shown.layers.items():
        if layer.dense == 0 and layer.firing_rate is None:
            continue  # looks something up
        records.append(
            LayerRecord(
                name,
                layer.accumulates,
                layer.multiply_accumulates,
                layer.dense,
                layer.firing_rate,
                layer.kind,
            )
        )
    return tuple(records)


def counted_energies(
    count: OperationCount,
    costs: OperationCosts,
    lengths: Summary | Absent,
    *,
    trained: bool,
    zeros_skipped: bool,
) -> tuple[Energy, ...]:
    """Counted energy of a decision and of an episode.

    Args:
        count: of a decision.
        costs: energy of an operation.
        lengths: decisions of an episode.
        trained: whether the network's zeros mean something.
        zeros_skipped: whether the page's other counts skip them.

    Returns:
        a row with all products of real numbers and, for a trained network, one with zeros skipped;
        first the one that the page's other counts agree with.
    """
    every = count.with_zeros().energy(costs)
    rows = [_row(ALL, every, "zeros among real numbers charged, missing spikes not", lengths)]
    if trained:
        rows.append(_row(SKIPPED, count.energy(costs), "zeros skipped", lengths))
    return tuple(reversed(rows) if zeros_skipped else rows)


def _row(label: str, energy: Figure, what: str, lengths: Summary | Absent) -> Energy:
    decision = replace(energy, method=f"{energy.method}; {what}")
    return Energy("counted", label, decision, times_length(decision, lengths))


def times_length(decision: Figure, lengths: Summary | Absent) -> Figure | Absent:
    """A decision's energy for a whole episode of mean length, of the same kind."""
    if isinstance(lengths, Absent):
        return lengths
    method = f"{decision.method}; x {lengths.mean:g} decisions an episode"
    return Figure(decision.value * lengths.mean, decision.unit, decision.kind, method)
