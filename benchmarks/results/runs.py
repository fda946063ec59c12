"""The folders that benchmarks.online_learning writes."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.command import portable
from benchmarks.results.hyperparameters import read
from benchmarks.results.record import Record, Start

# What the runs' folder is called in the commands that are kept.
RUNS = "runs/online"
_NAME = re.compile(r"(?P<env>.+)_seed(?P<seed>\d+)")


def collect(runs: Path, data: Path) -> list[str]:
    """Keep the small part of every run, and say what was kept.

    A run that cannot be read leaves what was kept of it before as it was.

    Args:
        runs: holds KIND/ENV_seedSEED.
        data: where it goes.

    Returns:
        A sentence for each run that could not be read.

    Raises:
        ValueError: if there is no run.
    """
    folders = [path for path in sorted(runs.glob("*/*_seed*")) if _NAME.fullmatch(path.name)]
    if not folders:
        raise ValueError(
            f"runs must be a folder with KIND/ENV_seedSEED in it, as benchmarks.online_learning "
            f"writes them; {runs} has none"
        )
    problems = []
    for folder in folders:
        try:
            record = read_run(folder)
        except ValueError as error:
            problems.append(str(error))
            print(f"not kept: {error}")
            continue
        if record is None:
            print(f"{folder}: no evaluation yet")
            continue
        path = record.save(data)
        print(f"{path}: {int(record.steps[-1]):,} steps, {path.stat().st_size / 1000:.1f} kB")
    return problems


def read_run(folder: Path) -> Record | None:
    """A run; None before its first evaluation.

    A start that ended before its first checkpoint leaves a folder of its own (RL Zoo numbers
    them), and the next start begins anew: the one that got furthest is the run, the newest of
    those that got equally far. Returns have no say in it.

    Raises:
        ValueError: if a file is damaged or missing.
    """
    name = _NAME.fullmatch(folder.name)
    if name is None:
        raise ValueError(f"{folder} must be named ENV_seedSEED")
    env, kind = name["env"], folder.parent.name
    numbered = re.compile(re.escape(env) + r"_(\d+)(_[0-9a-f-]{36})?")
    found = []
    for path in folder.glob(f"*/{env}_*/evaluations.npz"):
        number = numbered.fullmatch(path.parent.name)
        if number is not None:
            steps, results = _evaluations(path)
            found.append((int(steps[-1]), int(number[1]), path, steps, results))
    if not found:
        return None
    *_, path, steps, results = max(found, key=lambda one: one[:2])
    columns = (steps, results.mean(1), results.std(1), results.min(1), results.max(1))
    return Record(
        env=env,
        kind=kind,
        seed=int(name["seed"]),
        algo=path.parent.parent.name,
        episodes=results.shape[1],
        starts=_starts(folder / "commits.jsonl", f"{RUNS}/{kind}/{folder.name}"),
        table=np.stack(columns, axis=1),
        # Written at the first start: one that goes on must have the same.
        hyperparameters=read(path.parent / env / "config.yml"),
    )


def _evaluations(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps [N] and returns [N, episodes] of Stable-Baselines3's EvalCallback."""
    try:
        # Opened here: numpy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream) as file:
            steps, results = file["timesteps"], file["results"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged or being written ({error}); collect again after its next evaluation"
        ) from error
    whole = (
        (results.ndim == 2 and results.size and len(steps) == len(results))
        and np.isfinite(results).all()
        and (np.diff(steps) > 0).all()
    )
    if not whole:
        raise ValueError(
            f"{path} must hold rising steps [N] and finite returns [N, episodes] with N at least "
            f"1, got {steps.shape} and {results.shape}"
        )
    return steps, results


def _starts(path: Path, folder: str) -> tuple[Start, ...]:
    """The starts that the benchmark noted, but for those that nothing is left of.

    Equal ones in a row are one.
    """
    try:
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
        noted = [
            Start(int(one["from"]), str(one["commit"]), portable(one["command"], folder))
            for one in entries
        ]
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no {path}: what is kept names its commit, so start runs with "
            "`python -m benchmarks.online_learning`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); mend it by hand, a line a start") from error
    if not noted:
        raise ValueError(f"{path} names no start")
    kept = noted[:1]
    for start in noted[1:]:
        # Nothing is left of what went on from the same checkpoint, or a later one, before.
        while len(kept) > 1 and 0 < start.step <= kept[-1].step:
            kept.pop()
        if (start.commit, start.command) != (kept[-1].commit, kept[-1].command):
            kept.append(start)
    return tuple(kept)
