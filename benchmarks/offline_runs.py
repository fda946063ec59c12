"""Spiking transformers and a dense one, offline: a list of runs that goes on where it was stopped.

    python -m benchmarks.offline_runs --minutes 170 --jobs 2 --out runs/offline
    python -m benchmarks.offline_summary --out runs/offline

All networks have the same width, blocks, context, batch, optimizer, schedule and steps, and are
asked for the same return; see benchmarks.offline_networks. A run that is done is skipped, one that
another process works on is left to it, and one that was stopped goes on from its last checkpoint,
of eight. `--list` shows what is done. --networks takes names and groups: main, norms, time, memory,
parts.
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.jobs import share_out
from benchmarks.offline_episodes import environment
from benchmarks.offline_networks import GROUPS, NETWORKS, Recipe, network_names
from benchmarks.offline_training import STRETCHES, Late, Run, Training
from benchmarks.online_learning import claimed
from d3rlpy_spiking.cli.runs import read_json

SHARED = Path(__file__).resolve().parents[2] / "shared" / "datasets"
DATASETS = (
    SHARED / "hopper_medium_expert.npz",
    SHARED / "halfcheetah_medium_expert.npz",
    Path("runs/offline/walker2d_medium_replay.npz"),
)


def runs(args: argparse.Namespace) -> list[Run]:
    """Seeds first: a stopped list has all datasets and networks with the same seeds."""
    names = {field.name for field in dataclasses.fields(Recipe)} - {"context"}
    recipe = Recipe(**{name: getattr(args, name) for name in names})
    return [
        Run(path, network, seed, dataclasses.replace(recipe, context=context))
        for seed in args.seeds
        for path in args.datasets
        for context in args.contexts
        for network in args.networks
    ]


def check(args: argparse.Namespace) -> None:
    """Raise for what would fail hours later, or be taken for what it is not.

    Raises:
        FileNotFoundError: if a dataset is missing.
        ValueError: if the steps cannot be divided, two have one name, the environment of one cannot
            be made, or a run was done or begun with other settings.
    """
    if args.steps < 1 or args.steps % STRETCHES:
        raise ValueError(f"--steps must be a multiple of {STRETCHES}, got {args.steps}")
    for path in args.datasets:
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no dataset {path}; name those that there are with --datasets, or make "
                "it: python -m benchmarks.offline_replay_data, or offline_corridor"
            )
        environment(path)
    stems = [path.stem for path in args.datasets]
    if len(set(stems)) < len(stems):
        raise ValueError(f"datasets must have different names, got {stems}")
    for run in runs(args):
        for path in (run.result(args.out), run.folder(args.out) / "progress.json"):
            if path.exists() and read_json(path)["settings"] != run.settings():
                raise ValueError(
                    f"{path} is of a run with other settings; restore them, or choose another --out"
                )


def state(run: Run, out: Path) -> str:
    """How far a run has come."""
    if run.result(out).exists():
        result = read_json(run.result(out))
        score = result["last"]["score"]
        shown = f"return {result['last']['mean']:.1f}" if score is None else f"score {score:.1f}"
        return f"done, {shown}, {result['seconds']:,.0f} s"
    progress = run.folder(out) / "progress.json"
    step = read_json(progress)["step"] if progress.exists() else 0
    return f"{step:,} of {run.recipe.steps:,} steps"


def work(run: Run, out: Path, deadline: float) -> None:
    """Start or go on with a run, unless it is done or another process's."""
    with claimed(run.folder(out)) as free:
        if not free or run.result(out).exists():
            return
        print(f"{run.name}: from {state(run, out)}", flush=True)
        try:
            Training(run, out, deadline).go()
        except Late:
            print(f"{run.name}: stopped at {state(run, out)}", flush=True)
            return
        print(f"{run.name}: {state(run, out)}", flush=True)


def workers(args: argparse.Namespace) -> None:
    """Walk through the list, `--jobs` processes at a time."""
    if args.jobs > 1:
        share_out("benchmarks.offline_runs", sys.argv[1:], args.jobs)
        return
    torch.set_num_threads(1)
    deadline = time.time() + 60 * args.minutes
    for run in runs(args):
        if time.time() < deadline:
            work(run, args.out, deadline)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--datasets", type=Path, nargs="+", default=list(DATASETS), metavar="FILE.npz")
    add("--networks", nargs="+", default=["main"], help=", ".join([*GROUPS, *NETWORKS]))
    add("--contexts", type=int, nargs="+", default=[Recipe.context])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for field in dataclasses.fields(Recipe):
        if field.name != "context":
            kind = type(field.default)
            add(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    add("--minutes", type=float, default=1e6)
    add("--jobs", type=int, default=1)
    add("--out", type=Path, default=Path("runs/offline"))
    add("--list", action="store_true")
    args = parser.parse_args(arguments)
    try:
        args.networks = network_names(args.networks)
        if not args.list:
            check(args)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    return args


def main() -> None:
    """Train what is asked for."""
    args = parse()
    if not args.list:
        workers(args)
        return
    for run in runs(args):
        print(f"{run.name}: {state(run, args.out)}")


if __name__ == "__main__":
    main()
