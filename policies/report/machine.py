"""What this machine says of a network: latency, and energy where it has counters."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from policies.energy.figures import Figure, Kind
from policies.energy.meter import EnergyReading
from policies.report.records import Absent, Energy, Latency

ROUNDS, WARM_UP = 300, 50
_JOULES = 3.6e6  # in a kWh
MACHINE = "whole machine"


def time_decisions(
    deciders: Sequence[Callable[[], object]],
    runners: Sequence[str],
    what: str,
    *,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
) -> list[Latency]:
    """Latency of one decision of each of several networks, in turns, so that all share a load.

    Args:
        deciders: each call takes one decision.
        runners: what runs each of them, in a few words.
        what: what a call is.
        rounds: decisions of each that are timed.
        warm_up: decisions of each before that.
    """
    seconds: list[list[float]] = [[] for _ in deciders]
    for turn in range(warm_up + rounds):
        for decide, found in zip(deciders, seconds, strict=True):
            start = time.perf_counter()
            decide()
            end = time.perf_counter()
            if turn >= warm_up:
                found.append(end - start)
    latencies = []
    for found, runner in zip(seconds, runners, strict=True):
        text = (
            f"time.perf_counter around one decision, {rounds} after {warm_up} to warm up; "
            f"{what}, {runner}; {torch.get_num_threads()} thread(s) on {cpu_name()}"
        )
        low, median, high = (
            Figure(1e6 * value, "us", "measured", text)
            for value in np.quantile(found, [0.25, 0.5, 0.75]).tolist()
        )
        latencies.append(Latency(median, low, high, runner))
    return latencies


def cpu_name() -> str:
    """The processor's name as the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or f"{platform.machine()}, {os.cpu_count()} cores"


def machine_energy(
    reading: EnergyReading, estimate: EnergyReading, decisions: int, episodes: int, seconds: float
) -> tuple[Energy, Energy]:
    """Energy of the machine over the episodes, environment included: measured, and estimated.

    Args:
        reading: what counters said of all episodes.
        estimate: what a model said.
        decisions: of all episodes.
        episodes: how many.
        seconds: all took together.
    """
    return (
        _energy("measured", reading, decisions, episodes, seconds),
        _energy("estimated", estimate, decisions, episodes, seconds),
    )


def _energy(
    kind: Kind, reading: EnergyReading, decisions: int, episodes: int, seconds: float
) -> Energy:
    if reading.kwh is None:
        absent = Absent(reading.method)
        return Energy(kind, MACHINE, absent, absent)
    method = f"{reading.method}, environment included, over {seconds:.2g} s"
    figures = [
        Figure(1e3 * _JOULES * reading.kwh / count, "mJ", kind, method)
        for count in (decisions, episodes)
    ]
    return Energy(kind, MACHINE, *figures)


def no_machine_energy(why: str) -> tuple[Energy, Energy]:
    """The same rows for a network that played no episodes."""
    nothing = EnergyReading(None, None, f"not measured: {why}")
    guess = EnergyReading(None, None, f"not estimated: {why}")
    return machine_energy(nothing, guess, 1, 1, 0.0)
