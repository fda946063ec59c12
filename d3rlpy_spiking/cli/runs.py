"""A training run's folder: checkpoints, what was asked for, results."""

import json
import math
import os
import pickle
import re
import secrets
from pathlib import Path
from typing import Any

import d3rlpy
from d3rlpy.base import dump_learnable

from d3rlpy_spiking.algorithm import Plugin, SpikingTransformerAlgorithm
from d3rlpy_spiking.cli.errors import UsageError
from policies.files import write_atomically

_CHECKPOINT = re.compile(r"model_(\d+)\.d3")


class Run:
    """The files of a run in one folder.

    `model.d3` is written last: where it is, the run is finished.

    Args:
        folder: the folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model.d3"
        self.results = folder / "results.json"
        self._settings = folder / "run.json"

    def newest(self) -> tuple[int, Path] | None:
        """Gradient steps and path of the newest checkpoint; None without any."""
        found = {}
        for path in self.folder.glob("model_*.d3"):
            match = _CHECKPOINT.fullmatch(path.name)
            if match is not None:
                found[int(match[1])] = path
        return max(found.items()) if found else None

    def check_free(self) -> None:
        """Raise unless there is nothing here that training anew would overwrite.

        Raises:
            UsageError: if the run has begun before.
        """
        newest = self.newest()
        if self.model.exists() or newest is not None:
            state = "a finished run" if self.model.exists() else "an unfinished run"
            steps = f" of {newest[0]} steps" if newest else " without its checkpoints"
            resume = "go on with it with --resume, or " if newest else ""
            raise UsageError(
                f"{self.folder} holds {state}{steps}; {resume}choose another --output or --seed"
            )

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise if the run was started with other settings, which a checkpoint would not follow.

        Raises:
            UsageError: naming the first that differs.
        """
        if not self._settings.exists():
            return
        before = read_json(self._settings)
        if not isinstance(before, dict):
            raise UsageError(f"{self._settings} must hold the settings of the run; restore it")
        before.pop("ranks", None)
        change = _first_change(before, settings, "")
        if change is not None:
            raise UsageError(
                f"{change}, in {self.folder}; --resume goes on with the settings of the start: "
                "restore them, or start another run with another --output"
            )

    def ranks(self) -> int | None:
        """How many processes trained it last; None where that is not known."""
        found = read_json(self._settings).get("ranks") if self._settings.exists() else None
        return found if isinstance(found, int) else None

    def start(self, settings: dict[str, Any], step: int) -> None:
        """Make the folder ready for training from that step on; nothing later stays in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._settings, settings)
        self.model.unlink(missing_ok=True)
        self.results.unlink(missing_ok=True)
        for part in self.folder.glob(".model*.d3.*"):  # of a process that was killed
            part.unlink()
        for path in self.folder.glob("*.csv"):
            _cut_csv(path, step)

    def save(self, algo: Any, step: int) -> None:
        """Write the checkpoint of a step; a finished file or none."""
        save_algorithm(algo, self.folder / f"model_{step}.d3")


def save_algorithm(algo: Any, path: Path) -> None:
    """Save an algorithm, ours or d3rlpy's, atomically."""
    if isinstance(algo, SpikingTransformerAlgorithm):
        algo.save(str(path))
        return

    def write(name: str) -> None:
        dump_learnable(algo, name)
        content = pickle.loads(Path(name).read_bytes())
        # An encoder may be ours; and the discrete one's schedule follows tokens it does not save.
        content["plugin"] = Plugin()
        content["tokens"] = getattr(algo.impl, "_tokens", 0)
        Path(name).write_bytes(pickle.dumps(content))

    write_atomically(str(path), write)


def load_algorithm(path: Path, device: str) -> Any:
    """The algorithm in a .d3 file, its optimizer and schedules included.

    Raises:
        FileNotFoundError: if there is no such file.
        UsageError: if it holds no algorithm.
    """
    try:
        with open(path, "rb") as file:
            content = pickle.load(file)
        algo = d3rlpy.load_learnable(str(path), device=device)
    except OSError:
        raise
    # A file of another kind may fail on anything.
    except Exception as error:
        raise UsageError(
            f"{path} is damaged or no model of d3rlpy ({type(error).__name__}: {error})"
        ) from error
    if "tokens" in content:
        algo.impl._tokens = content["tokens"]
    return algo


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is no valid JSON: {error}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file; a finished one or none. What is not a finite number becomes null."""
    _replace(path, json.dumps(_finite(content), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _cut_csv(path: Path, step: int) -> None:
    """Leave out the rows of steps after `step`; each begins with epoch and step."""
    text = path.read_text(encoding="utf-8")
    kept = []
    for line in text.splitlines(keepends=True):
        at = line.split(",")[1:2]
        # A killed process may leave half a line.
        if line.endswith("\n") and (at == ["step"] or (at and int(at[0]) <= step)):
            kept.append(line)
    _replace(path, "".join(kept))


def _first_change(before: Any, now: Any, path: str) -> str | None:
    """Where two settings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        changes = (
            _first_change(before.get(name), now.get(name), f"{path}.{name}" if path else name)
            for name in [*now, *(name for name in before if name not in now)]
        )
        return next((change for change in changes if change is not None), None)
    return None if before == now else f"{path} is {now!r}, but was {before!r}"
