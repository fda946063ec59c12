"""Latency, energy of the machine, and episodes that are played."""

import itertools
from collections import Counter

import pytest

from policies.energy import Figure
from policies.energy.meter import EnergyMeter, EnergyReading
from policies.report import Absent
from policies.report.machine import machine_energy, no_machine_energy, time_decisions
from policies.report.run import Sample, run_episodes


def test_networks_are_timed_in_turns_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    looks = itertools.count()
    # A second at every look, and warming up takes much longer.
    monkeypatch.setattr("time.perf_counter", lambda: float(next(looks)) + 1e3 * min(len(calls), 4))
    found = time_decisions(
        [lambda: calls.append("a"), lambda: calls.append("b")],
        ["one", "other"],
        "a decision",
        rounds=3,
        warm_up=2,
    )
    assert "".join(calls) == "ab" * 5
    assert [latency.high.value for latency in found] == [1e6, 1e6]
    assert [latency.runner for latency in found] == ["one", "other"]
    assert found[1].median.kind == "measured"
    assert "3 after 2 to warm up; a decision, other" in found[1].median.method


def test_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1e-6, 0.0, 2e-6, 0.0, 3e-6, 0.0, 4e-6, 0.0, 5e-6])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    (found,) = time_decisions([lambda: None], ["x"], "y", rounds=5, warm_up=0)
    shown = [figure.value for figure in (found.low, found.median, found.high)]
    assert shown == pytest.approx([2.0, 3.0, 4.0])


def test_energy_of_the_machine_is_shared_out() -> None:
    reading = EnergyReading(2e-6, "measured", "CPU by RAPL (whole machine)")
    estimate = EnergyReading(None, None, "not estimated: no model")
    measured, estimated = machine_energy(reading, estimate, decisions=400, episodes=4, seconds=2.0)
    # 2e-6 kWh are 7.2 J.
    assert isinstance(measured.decision, Figure)
    assert isinstance(measured.episode, Figure)
    assert measured.decision.value == pytest.approx(18.0)
    assert measured.episode.value == pytest.approx(1800.0)
    assert measured.decision.method == "CPU by RAPL (whole machine), environment included, over 2 s"
    assert estimated.decision == Absent("not estimated: no model")
    assert (measured.kind, estimated.kind) == ("measured", "estimated")
    rows = no_machine_energy("nothing ran")
    assert [row.decision for row in rows] == [
        Absent("not measured: nothing ran"),
        Absent("not estimated: nothing ran"),
    ]


def test_episodes_count_their_seeds_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policies.report.run.EnergyMeter", lambda **_: EnergyMeter(enabled=False))
    run = run_episodes(lambda seed: (10.0 * seed, seed), 3, 5)
    assert run.returns == (50.0, 60.0, 70.0)
    assert run.lengths == (5.0, 6.0, 7.0)
    assert run.reading.kind is None


def test_samples_are_uniform() -> None:
    found: Counter[int] = Counter()
    for seed in range(600):
        sample: Sample[int] = Sample(5, seed)
        for i in range(20):
            sample.offer(lambda i=i: i)  # type: ignore[misc]  # called at once
        assert len(set(sample.kept)) == 5
        found.update(sample.kept)
    # Each is kept in a quarter of 600 samples: 150, standard deviation 11.
    assert all(105 < found[i] < 195 for i in range(20))
    short: Sample[int] = Sample(5, 0)
    short.offer(lambda: 1)
    assert short.kept == [1]
