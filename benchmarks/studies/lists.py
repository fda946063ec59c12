"""Walking through a list of trainings, and reading what came of them."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.jobs import share_out
from benchmarks.studies.runs import CONFIG, Measure, Training, check_result, work


def read(trainings: Sequence[Training], out: Path) -> dict[str, list[dict[str, Any]]]:
    """Results that are there, by cell, in the order of the list.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if one was made with other settings.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    # A seed that was given twice counts once.
    for path, training in {training.result(out): training for training in trainings}.items():
        if path.exists():
            check_result(training, out)
            result = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(training.name, []).append(result)
    if not found:
        raise FileNotFoundError(
            f"no training of this list below {out} is done; start it without --table"
        )
    return found


def add_options(parser: argparse.ArgumentParser, *, env: str, steps: int, out: str) -> None:
    """The options that all lists have."""
    add: Any = parser.add_argument
    add("--env", default=env)
    add("--steps", type=int, default=steps)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--config", default=CONFIG, help="hyperparameter file of TD3")
    add("--minutes", type=float, default=1e6, help="stop after so long; the same command goes on")
    add("--jobs", type=int, default=1, help="processes at a time")
    add("--out", type=Path, default=Path(out))
    add("--list", action="store_true", help="say what is done, and train nothing")
    add("--table", action="store_true", help="print the table of what is done, and train nothing")
    # One of --jobs: the process that started it shows what is done.
    add("--worker", action="store_true", help=argparse.SUPPRESS)


def show(trainings: Sequence[Training], out: Path) -> None:
    """Print how far each is."""
    for training in trainings:
        state = f"{training.steps_done(out):,} of {training.steps:,} steps"
        if training.result(out).exists():
            result = json.loads(training.result(out).read_text(encoding="utf-8"))
            state = f"done, return {result['mean']:.1f}, {result['seconds']:,.0f} s"
        print(f"{training.label}: {state}")


def work_through(
    trainings: Sequence[Training], args: argparse.Namespace, measure: Measure, module: str
) -> bool:
    """Walk through a list, `--jobs` processes at a time; exits with 1 if one failed.

    Args:
        trainings: in order; seeds first, so that a stopped list has all cells of a seed.
        args: of `add_options`.
        measure: what is kept of each.
        module: that `python -m` runs, for further processes.

    Returns:
        Whether there is a result to show, here; that there is none yet is printed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that trainings end, too
    for training in trainings:
        check_result(training, args.out)  # before anything long
    if args.jobs > 1:
        share_out(module, [*sys.argv[1:], "--worker"], args.jobs)
    else:
        deadline = time.time() + 60.0 * args.minutes
        sound = True
        for training in trainings:
            if time.time() < deadline:
                sound &= work(training, args.out, measure, deadline)
        if not sound:
            sys.exit(1)
    if args.worker:
        return False
    if any(training.result(args.out).exists() for training in trainings):
        return True
    print("nothing done yet; the same command goes on")
    return False
