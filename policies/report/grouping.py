"""Layers of a network in as few rows as there is room for."""

from collections.abc import Sequence
from dataclasses import replace

from policies.report.records import LayerRecord


def grouped(layers: Sequence[LayerRecord], most: int) -> tuple[LayerRecord, ...]:
    """Layers that share the beginning of their names as one, until there are few enough."""
    layers = _with_neurons(layers)
    depth = max((layer.name.count(".") + 1 for layer in layers), default=1)
    groups = tuple(layers)
    while len(groups) > most and depth > 1:
        depth -= 1
        found: dict[str, list[LayerRecord]] = {}
        for layer in layers:
            found.setdefault(".".join(layer.name.split(".")[:depth]), []).append(layer)
        groups = tuple(_sum(name, parts) for name, parts in found.items())
    return groups


def _with_neurons(layers: Sequence[LayerRecord]) -> list[LayerRecord]:
    """Neurons that stand right behind their linear layer in one record with it."""
    found: list[LayerRecord] = []
    for layer in layers:
        before = found[-1] if found else None
        if (
            before is not None
            and layer.kind == "neurons"
            and before.kind == "linear"
            and before.firing_rate is None
        ):
            found[-1] = replace(before, firing_rate=layer.firing_rate)
        else:
            found.append(layer)
    return found


def _sum(name: str, parts: Sequence[LayerRecord]) -> LayerRecord:
    """Layers as one; its firing rate is the mean over layers, whatever their sizes."""
    rates = [part.firing_rate for part in parts if part.firing_rate is not None]
    return LayerRecord(
        name,
        sum(part.accumulates for part in parts),
        sum(part.multiply_accumulates for part in parts),
        sum(part.dense for part in parts),
        sum(rates) / len(rates) if rates else None,
    )
