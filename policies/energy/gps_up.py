"""Speedup, Greenup and Powerup of one run over another, and the records they are computed from.

    Speedup = T_base / T_new    Greenup = E_base / E_new    Powerup = P_new / P_base
                                                                    = Speedup / Greenup

T is wall-clock time, E energy, P mean power. Greenup above 1 saves energy; Powerup above 1 means
that the new run draws more power (some texts turn Powerup round). Only measured energy counts:
without it Greenup and Powerup are "not measured".

Source: Abdulsalam, Zong, Gu, Qiu, "Using the Greenup, Powerup, and Speedup metrics to evaluate
software energy efficiency", IGSC 2015.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from policies.energy.meter import EnergyReading
from policies.files import write_atomically

UNITS = ("environment steps", "gradient steps")
PARTS = ("environment", "gradient", "exchange")

_ABSENT = "not measured"
# Several ranks end with a whole rollout of each: steps may differ by this factor.
MOST = 1.25


@dataclass(frozen=True)
class RunRecord:
    """What a run did and what it took.

    Attributes:
        steps: how many of `unit` it did, over all ranks.
        unit: "environment steps" or "gradient steps".
        ranks: its processes.
        seconds: wall-clock time, s.
        parts: of these seconds, those spent on "environment", "gradient" (forward and backward) and
            "exchange" (communication between ranks); what was not timed is left out.
        energy: measured energy; None, or a reading without kwh, where there is none.
        estimate: energy by a model, which GPS-UP leaves alone.
        command: what started it.

    Raises:
        ValueError: if a field is none of these; the message names it.
    """

    steps: int
    unit: str
    ranks: int
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)
    energy: EnergyReading | None = None
    estimate: EnergyReading | None = None
    command: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_count("steps", self.steps)
        _check_count("ranks", self.ranks)
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")
        _check_seconds("seconds", self.seconds)
        if self.seconds == 0:
            raise ValueError("seconds must be above 0, got 0")
        _check_parts(self.parts)
        _check_kind("energy", self.energy, "measured")
        _check_kind("estimate", self.estimate, "estimated")
        if not isinstance(self.command, str):
            raise ValueError(f"command must be a text, got {self.command!r}")

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file, whole or not at all.

        Raises:
            FileNotFoundError: if the folder does not exist.
        """
        text = json.dumps({**asdict(self), "parts": dict(self.parts)}, indent=2) + "\n"

        def write(name: str) -> None:
            Path(name).write_text(text, encoding="utf-8")

        write_atomically(str(path), write)

    @classmethod
    def load(cls, path: str | Path) -> "RunRecord":
        """Read it from a JSON file.

        Raises:
            ValueError: if the file holds no record; the message names the file and the field.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        try:
            _check_fields("the record", cls, found)
            for name in ("energy", "estimate"):
                if found.get(name) is not None:
                    found[name] = _reading(name, found[name])
            return cls(**found)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class GpsUp:
    """Factors of a new run over a base; None: not measured."""

    speedup: float
    greenup: float | None
    powerup: float | None


def gps_up(base: RunRecord, new: RunRecord) -> GpsUp:
    """Compare two runs that did the same work.

    Args:
        base: what is compared with.
        new: what is compared.

    Returns:
        the three factors. Greenup and Powerup are None unless the energy of both was measured, and
        by the same method: other counters cover other parts of the machine.

    Raises:
        ValueError: if they did different work; numbers of steps may differ by the end of a rollout,
            a quarter at most, and time and energy are then those of a step.
    """
    share = new.steps / base.steps
    if base.unit != new.unit or not 1.0 / MOST <= share <= MOST:
        raise ValueError(
            "GPS-UP compares runs of the same work: base did "
            f"{base.steps} {base.unit}, new did {new.steps} {new.unit}; run one of them again"
        )
    speedup = base.seconds / new.seconds * share
    energies = _energy(base), _energy(new)
    if energies[0] is None or energies[1] is None or energies[0][1] != energies[1][1]:
        return GpsUp(speedup, None, None)
    greenup = energies[0][0] / energies[1][0] * share
    return GpsUp(speedup, greenup, speedup / greenup)


def table(records: Sequence[RunRecord]) -> str:
    """Runs of the same work as a Markdown table, compared with the first.

    Returns:
        the table and, below it, the work and how energy was read. Shares are of the wall-clock
        time.

    Raises:
        ValueError: if there are no runs, or they did different work.
    """
    if not records:
        raise ValueError("records must hold at least one run, got none")
    lines = [
        "| ranks | wall [s] | environment | forward/backward | communication "
        "| Speedup | Greenup | Powerup |",
        "|" + "---:|" * 8,
    ]
    for record in records:
        factors = gps_up(records[0], record)
        shares = [_share(record, part) for part in PARTS]
        cells = [str(record.ranks), f"{record.seconds:.1f}", *shares, f"{factors.speedup:.2f}"]
        cells += [_factor(factors.greenup), _factor(factors.powerup)]
        lines.append("| " + " | ".join(cells) + " |")
    # One sentence for runs that were measured alike.
    methods = dict.fromkeys(
        record.energy.method if record.energy else _ABSENT for record in records
    )
    steps = [record.steps for record in records]
    span = f"{steps[0]}" if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}"
    work = f"{span} {records[0].unit} each; compared with the first row, by the step."
    return "\n".join([*lines, "", f"{work} Energy: {'; '.join(methods)}.", ""])


def _energy(record: RunRecord) -> tuple[float, str] | None:
    if record.energy is None or record.energy.kwh is None:
        return None
    return record.energy.kwh, record.energy.method


def _share(record: RunRecord, part: str) -> str:
    if part not in record.parts:
        return _ABSENT
    return f"{100 * record.parts[part] / record.seconds:.0f} %"


def _factor(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.2f}"


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")


def _check_seconds(name: str, value: object) -> None:
    number = isinstance(value, float | int) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:  # type: ignore[arg-type,operator]
        raise ValueError(f"{name} must be a finite number of seconds, got {value!r}")


def _check_parts(parts: object) -> None:
    if not isinstance(parts, Mapping):
        raise ValueError(f"parts must map names to seconds, got {parts!r}")
    for name, seconds in parts.items():
        if name not in PARTS:
            raise ValueError(f"parts must be among {', '.join(PARTS)}, got {name!r}")
        _check_seconds(f"parts[{name!r}]", seconds)


def _check_kind(name: str, reading: object, kind: str) -> None:
    if reading is None:
        return
    if not isinstance(reading, EnergyReading):
        raise ValueError(f"{name} must be an EnergyReading or None, got {reading!r}")
    if reading.kind not in (None, kind):
        raise ValueError(f"{name} must be {kind} energy, got {reading.kind} energy")


def _check_fields(what: str, kind: type, found: object) -> None:
    """Refuse an object that does not have the fields of a dataclass."""
    if not isinstance(found, dict):
        raise ValueError(f"{what} must be an object with fields, got {found!r}")
    known = {entry.name: entry for entry in fields(kind)}
    unknown = [name for name in found if name not in known]
    if unknown:
        raise ValueError(
            f"{what} has the unknown field {unknown[0]!r}; it takes {', '.join(known)}"
        )
    for name, entry in known.items():
        if name not in found and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{what} lacks the field {name!r}")


def _reading(name: str, found: Any) -> EnergyReading:
    _check_fields(name, EnergyReading, found)
    try:
        return EnergyReading(**found)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
