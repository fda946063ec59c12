"""The models that a run passes through: each checkpoint's, once, without its replay buffer.

A run keeps its newest two checkpoints. `FOLDER/stages/steps_N.zip` keeps the model of every one.
"""

import contextlib
import re
import shutil
from pathlib import Path

from policies.files import write_atomically

STAGES = "stages"
_CHECKPOINT = re.compile(r"steps_(\d+)")
_STAGE = re.compile(r"steps_(\d+)\.zip")


def keep(folder: Path) -> None:
    """Copy the model of each new checkpoint of a run's folder.

    A checkpoint that was written again, by a run that began anew or went on from an earlier one,
    takes the place of its stage.
    """
    models = sorted(folder.glob("*/*/checkpoints/steps_*/model.zip"), key=_written)
    # Of two with the same steps the newest.
    for name, model in {path.parent.name: path for path in models}.items():
        stage = folder / STAGES / f"{name}.zip"
        if not _CHECKPOINT.fullmatch(name) or _written(stage) >= _written(model):
            continue
        stage.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the run has just deleted the checkpoint
            _copy(model, stage)


def _written(path: Path) -> float:
    """When; before everything else if the file is not there."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("-inf")


def _copy(model: Path, stage: Path) -> None:
    def write(name: str) -> None:
        shutil.copyfile(model, name)

    write_atomically(str(stage), write)


def found(folder: Path, until: int | None = None) -> list[Path]:
    """The stages of a folder of them, by their steps, which do not go beyond `until`.

    Raises:
        ValueError: if there are none.
    """
    steps = {}
    for path in folder.iterdir():
        match = _STAGE.fullmatch(path.name)
        if match is not None:
            steps[path] = int(match[1])
    if not steps:
        raise ValueError(
            f"{folder} must hold models steps_N.zip, as benchmarks.online_learning leaves them in "
            f"KIND/ENV_seedSEED/{STAGES}, and has none"
        )
    least = min(steps.values())
    if until is not None and until < least:
        raise ValueError(f"--until must be at least {least}, the first in {folder}, got {until}")
    kept = [path for path in steps if until is None or steps[path] <= until]
    return sorted(kept, key=lambda path: steps[path])
