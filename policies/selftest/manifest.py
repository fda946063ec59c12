"""What is known of the trained policies in a folder: `manifest.json`."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.files import write_atomically
from policies.report.statistics import summarize
from policies.selftest.band import Band, band_of
from policies.selftest.decisions import Decision, share_needed

FILE = "manifest.json"
_FORMAT = 1
_DIGITS = 5


@dataclass(frozen=True)
class Shipped:
    """A trained policy in a file.

    Attributes:
        name: by which it is asked for.
        file: path in the folder, with slashes.
        sha256: of the file.
        algorithm: that trained it.
        env: Gymnasium's id of the environment.
        env_kwargs: its arguments.
        target_return: what a return-conditioned policy is asked for; None for others.
        command: that trained it.
        seed: of the training; None where it had none.
        steps: of the training: environment steps online, gradient steps offline.
        commit: of this library at the training.
        arithmetic: in which the returns were made.
        versions: of the packages they were made with.
        first_seed: of the first episode's reset; the others count on.
        returns: of each replay, of each episode, [M, N]; the first replay is of the weights as they
            are, the others of weights with small changes: see `band.py`.
        openings: the first decisions of each episode: see `decisions.py`.
        worst_share: of these that were taken again in any of the other replays, in [0, 1].
    """

    name: str
    file: str
    sha256: str
    algorithm: str
    env: str
    env_kwargs: dict[str, Any]
    target_return: float | None
    command: str
    seed: int | None
    steps: int
    commit: str
    arithmetic: str
    versions: str
    first_seed: int
    returns: tuple[tuple[float, ...], ...]
    openings: tuple[tuple[Decision, ...], ...]
    worst_share: float

    @property
    def episodes(self) -> int:
        """How many episodes have known returns."""
        return len(self.returns[0])

    def seeds(self, episodes: int | None = None) -> range:
        """Seeds of the first episodes; None for all."""
        count = self.episodes if episodes is None else min(episodes, self.episodes)
        return range(self.first_seed, self.first_seed + count)

    def band(self, episodes: int | None = None) -> Band:
        """The mean returns that pass, of the first episodes; None for all."""
        return band_of(self.returns, len(self.seeds(episodes)))


def read_manifest(folder: Path) -> list[Shipped]:
    """The trained policies of a folder, by name.

    Raises:
        ValueError: if the manifest is missing or damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"there is no file {path}; install the package again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}, this version reads {_FORMAT}")
        return [_entry(found) for found in content["policies"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); install the package again"
        ) from error


def _entry(found: dict[str, Any]) -> Shipped:
    fields = {field.name: found[field.name] for field in dataclasses.fields(Shipped)}
    fields["returns"] = tuple(tuple(map(float, replay)) for replay in found["returns"])
    fields["openings"] = tuple(
        tuple(tuple(map(float, decision)) for decision in opening) for opening in found["openings"]
    )
    return Shipped(**fields)


def write_manifest(folder: Path, policies: Sequence[Shipped]) -> None:
    """Write the manifest of a folder: what is known, and for readers what follows from it."""
    ordered = sorted(policies, key=lambda shipped: shipped.name)
    entries = ",\n".join(_text(shipped) for shipped in ordered)
    text = f'{{\n"format": {_FORMAT},\n"policies": [\n{entries}\n]\n}}'
    write_atomically(str(folder / FILE), lambda name: _write_text(name, text + "\n"))


def _text(shipped: Shipped) -> str:
    """A policy as JSON; each of the long lists of numbers on as many lines as it has rows."""
    band, summary = shipped.band(), summarize(shipped.returns[0])
    plain = dataclasses.asdict(shipped)
    tables = {name: plain.pop(name) for name in ("returns", "openings")}
    plain["expected"] = {
        "mean return": summary.mean,
        "95 % bootstrap interval over episodes": [summary.low, summary.high],
        "mean returns that pass": [band.low, band.high],
        "part of the first decisions that passes": share_needed(shipped.worst_share),
    }
    plain["expected"] = {name: rounded(value) for name, value in plain["expected"].items()}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in plain.items()]
    for name, rows in tables.items():
        table = ",\n    ".join(json.dumps(rounded(row)) for row in rows)
        lines.append(f'"{name}": [\n    {table}\n  ]')
    return "{\n  " + ",\n  ".join(lines) + "\n}"


def rounded(value: Any) -> Any:
    """Numbers as they stand in a manifest."""
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, _DIGITS) if isinstance(value, float) else value


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole_file(folder: Path, shipped: Shipped) -> Path:
    """The policy's file.

    Raises:
        ValueError: if it is missing or not the one that was shipped; it is not opened then.
    """
    path = folder / shipped.file
    if not path.is_file():
        raise ValueError(f"there is no file {path}; install the package again")
    if checksum(path) != shipped.sha256:
        raise ValueError(
            f"{path} is not the file that was shipped (its SHA-256 differs); install the package "
            "again"
        )
    return path
