"""GPS-UP by hand-computed figures, records in files, and the table."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.energy.gps_up import GpsUp, RunRecord, gps_up, table
from policies.energy.meter import EnergyReading

RAPL = "CPU by RAPL"


def measured(kwh: float, method: str = RAPL) -> EnergyReading:
    return EnergyReading(kwh, "measured", method)


BASE = RunRecord(
    steps=20_000,
    unit="environment steps",
    ranks=1,
    seconds=100.0,
    parts={"environment": 30.0, "gradient": 60.0, "exchange": 0.0},
    energy=measured(0.3),
    estimate=EnergyReading(0.4, "estimated", "a model"),
    command="torchrun train",
)


def test_factors_by_hand() -> None:
    # 100 s / 25 s; 300 Wh / 120 Wh; 17.28 kW / 10.8 kW.
    new = replace(BASE, ranks=4, seconds=25.0, energy=measured(0.12))
    factors = gps_up(BASE, new)
    assert factors.speedup == pytest.approx(4.0)
    assert factors.greenup == pytest.approx(2.5)
    assert factors.powerup == pytest.approx(1.6)
    # Powerup is P_new / P_base.
    assert factors.powerup == pytest.approx((0.12 / 25.0) / (0.3 / 100.0))


def test_a_run_against_itself() -> None:
    assert gps_up(BASE, BASE) == GpsUp(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "energy", [None, EnergyReading(None, None, "not measured: no RAPL or NVML here")]
)
def test_missing_energy_is_not_measured(energy: EnergyReading | None) -> None:
    bare = replace(BASE, seconds=50.0, energy=energy)
    assert gps_up(BASE, bare) == GpsUp(2.0, None, None)
    assert gps_up(bare, BASE) == GpsUp(0.5, None, None)


def test_counters_of_other_parts_are_not_compared() -> None:
    other = replace(BASE, energy=measured(0.3, "GPU by NVML"))
    assert gps_up(BASE, other) == GpsUp(1.0, None, None)


def test_runs_that_end_with_another_rollout_are_compared_by_the_step() -> None:
    longer = gps_up(BASE, replace(BASE, steps=BASE.steps * 6 // 5))
    assert longer.speedup == pytest.approx(1.2)


@pytest.mark.parametrize("change", [{"steps": 15_000}, {"unit": "gradient steps"}])
def test_different_work_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"same work: base did 20000 environment steps"):
        gps_up(BASE, replace(BASE, **change))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("steps", True),
        ("ranks", 0),
        ("unit", "epochs"),
        ("seconds", 0),
        ("seconds", -1.0),
        ("seconds", float("nan")),
        ("seconds", "12"),
        ("parts", [1.0]),
        ("parts", {"exchnge": 1.0}),
        ("parts", {"exchange": -1.0}),
        ("energy", 0.3),
        ("energy", EnergyReading(0.4, "estimated", "a model")),
        ("estimate", EnergyReading(0.4, "measured", "a counter")),
        ("command", None),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(BASE, **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("record", [BASE, replace(BASE, parts={}, energy=None, estimate=None)])
def test_a_record_survives_its_file(tmp_path: Path, record: RunRecord) -> None:
    path = tmp_path / "run.json"
    record.save(path)
    assert RunRecord.load(path) == record
    assert [found.name for found in tmp_path.iterdir()] == ["run.json"]


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    BASE.save(path)
    found = json.loads(path.read_text())
    assert found["energy"] == {"kwh": 0.3, "kind": "measured", "method": RAPL}
    assert found["parts"] == {"environment": 30.0, "gradient": 60.0, "exchange": 0.0}


def test_a_failed_write_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    BASE.save(path)

    def fail(*_args: object, **_options: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        replace(BASE, ranks=2).save(path)
    assert RunRecord.load(path) == BASE
    assert [found.name for found in tmp_path.iterdir()] == ["run.json"]


def _write(path: Path, **changes: object) -> None:
    BASE.save(path)
    found = json.loads(path.read_text())
    found.update(changes)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 0}, "ranks"),
        ({"energy": 3}, "energy"),
        ({"energy": {"kwh": -1.0, "kind": "measured", "method": "x"}}, "energy.kwh"),
        ({"energy": {"kwh": 1.0, "kind": ["measured"], "method": "x"}}, "energy.kind"),
        ({"energy": {"kwh": 1.0, "kind": "measured"}}, "energy lacks the field 'method'"),
        ({"watts": 3}, "unknown field 'watts'"),
        ({"unit": ["gradient steps"]}, "unit"),
        ({"seconds": float("nan")}, "seconds"),
    ],
)
def test_a_bad_file_is_named_with_its_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "run.json"
    _write(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        RunRecord.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "JSON"), (b"{", "JSON"), (b"\xff", "JSON"), (b"[]", "object"), (b"{}", "'steps'")],
)
def test_a_file_of_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        RunRecord.load(path)
    assert str(path) in str(caught.value)


def test_the_table() -> None:
    two = replace(
        BASE,
        ranks=2,
        seconds=80.0,
        parts={"environment": 20.0, "exchange": 8.0},
        energy=measured(0.25),
    )
    bare = replace(two, ranks=4, energy=None)
    assert table([BASE, two, bare]).splitlines() == [
        "| ranks | wall [s] | environment | forward/backward | communication "
        "| Speedup | Greenup | Powerup |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| 1 | 100.0 | 30 % | 60 % | 0 % | 1.00 | 1.00 | 1.00 |",
        "| 2 | 80.0 | 25 % | not measured | 10 % | 1.25 | 1.20 | 1.04 |",
        "| 4 | 80.0 | 25 % | not measured | 10 % | 1.25 | not measured | not measured |",
        "",
        "20000 environment steps each; compared with the first row, by the step. "
        "Energy: CPU by RAPL; not measured.",
    ]


def test_a_table_of_nothing_or_of_different_work_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        table([])
    with pytest.raises(ValueError, match="same work"):
        table([BASE, replace(BASE, steps=1)])
