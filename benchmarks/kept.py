"""Results in files: made once, and reused only for the settings that they were made with."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.commits import own_commit
from benchmarks.online_learning import claimed
from d3rlpy_spiking.cli.runs import read_json, write_json


def once(
    path: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any] | None:
    """The result in a file, made if it is missing; None while another process makes it.

    Args:
        path: the file; a folder of its name, without the ending, holds the claim.
        settings: what decides the result.
        make: gives what is kept, these settings among it, under "settings" or beside the rest.

    Raises:
        ValueError: if it was made with other settings.
    """
    with claimed(path.with_suffix("")) as free:
        if free and not path.exists():
            commits = [own_commit()]  # before: others may commit meanwhile
            write_json(path, {**make(), "commits": commits})
    if not path.exists():
        return None
    check_settings(path, settings)
    result: dict[str, Any] = read_json(path)
    return result


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise if there is a result that was made with other settings.

    Raises:
        ValueError: naming those that differ, or that the file does not hold.
    """
    if not path.exists():
        return
    result = read_json(path)
    before = result.get("settings", result)
    changes = [
        f"{name} is {value!r}, but was {before.get(name, 'not recorded')!r}"
        for name, value in json.loads(json.dumps(settings)).items()
        if name not in before or before[name] != value
    ]
    if changes:
        raise ValueError(
            f"{path} was made with other settings ({'; '.join(changes)}); restore them, or choose "
            "another --out"
        )


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
