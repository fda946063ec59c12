"""STRL on mazes beside a dense Decision Transformer: spike steps, thresholds, leak, encoders.

    python -m benchmarks.maze_learning --out runs/maze
    python -m benchmarks.maze_learning --study --out runs/maze_study
    python -m benchmarks.maze_learning --study --table --out docs/data/studies/maze

Every run has the same mazes, width, blocks, heads, context, optimizer, learning-rate schedule and
steps; a seed gives weights and batches. `--encoders wavefront` gives spiking transformers the
spiking planner and the dense one its dense counterpart; `--encoders flat` gives both two dense
layers on the flattened observation. A run that has its file in --out is not repeated, one that
another process works on is left to it.

`--study` has mazes few and small enough to be learned with the flat encoder, so that spike steps,
threshold and leak make a difference, and seeds.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from d3rlpy.algos import DiscreteDecisionTransformerConfig
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
from d3rlpy.optimizers import GPTAdamWFactory
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from torch import Tensor, nn

from benchmarks.commits import own_commit
from benchmarks.energy import table
from benchmarks.jobs import share_out
from benchmarks.kept import check_settings, once
from benchmarks.offline_training import seed_all
from benchmarks.studies.text import mean_of, spread
from d3rlpy_spiking import STRLConfig
from d3rlpy_spiking.cli.runs import read_json
from d3rlpy_spiking.maze import (
    WavefrontEncoderFactory,
    accuracy,
    leak_check,
    maze_dataset,
    rollout_success,
)
from d3rlpy_spiking.operations import count_operations

CONTEXT, BATCH, HEADS, LAYERS = 10, 32, 4, 6


class Run(NamedTuple):
    """One row of the table."""

    algorithm: str
    encoder: str
    spike_steps: int = 4
    v_threshold: float = 0.5
    # STRL's default, a leak of three quarters a spike step
    v_decay: float = 0.25

    @property
    def name(self) -> str:
        """Name of the run's file."""
        if self.algorithm == "dt":
            return f"dt-{self.encoder}"
        name = f"strl-{self.encoder}-T{self.spike_steps}-v{self.v_threshold}"
        return name if self.v_decay == 0.25 else f"{name}-decay{self.v_decay}"


def make_runs(encoders: list[str], study: bool = False) -> list[Run]:
    """The dense run first, then spike steps, thresholds, and in the study leaks."""
    runs = []
    for encoder in encoders:
        runs += [Run("dt", encoder), Run("strl", encoder)]
        if study or encoder == "wavefront":
            runs += [Run("strl", encoder, spike_steps=t) for t in (1, 2, 8)]
            runs += [Run("strl", encoder, v_threshold=v) for v in (0.25, 1.0)]
        if study:
            runs += [Run("strl", encoder, v_decay=v) for v in (0.0, 0.5, 1.0)]
    return runs


@dataclasses.dataclass()
class FlatEncoderFactory(EncoderFactory):
    """Two dense layers on the flattened observation."""

    width: int = 64
    hidden: int = 256

    def create(self, observation_shape: Any) -> nn.Module:
        """The encoder of a maze."""
        channels, height, columns = observation_shape
        return FlatEncoder(channels * height * columns, self.hidden, self.width)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "maze_benchmark_flat"


class FlatEncoder(nn.Module):
    """See FlatEncoderFactory."""

    def __init__(self, size: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Observations [B, C, H, W] -> [B, width]."""
        features: Tensor = self.layers(x.flatten(1))
        return features


register_encoder_factory(FlatEncoderFactory)


def make_algo(run: Run, args: argparse.Namespace) -> Any:
    """The algorithm of a run."""
    encoder: EncoderFactory = FlatEncoderFactory(args.width)
    if run.encoder == "wavefront":
        encoder = WavefrontEncoderFactory(feature_size=args.width, spiking=run.algorithm == "strl")
    tokens = BATCH * CONTEXT
    common: dict[str, Any] = {
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "context_size": CONTEXT,
        "max_timestep": 225,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attn_dropout": 0.0,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "encoder_factory": encoder,
        "optim_factory": GPTAdamWFactory(betas=(0.9, 0.95), weight_decay=0.1, clip_grad_norm=1.0),
        "warmup_tokens": tokens * args.steps // 20,
        "final_tokens": tokens * args.steps,
    }
    if run.algorithm == "dt":
        return DiscreteDecisionTransformerConfig(**common).create()
    spiking = {name: getattr(run, name) for name in ("spike_steps", "v_threshold", "v_decay")}
    return STRLConfig(**common, **spiking).create()


def path_of(run: Run, seed: int, args: argparse.Namespace) -> Path:
    """The file of a run and seed."""
    mazes = f"{args.n_mazes}_of_{args.size}x{args.size}"
    return Path(args.out, mazes, f"{run.name}-{args.steps}-{seed}.json")


def settings_of(run: Run, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """What decides its content."""
    shared = ("steps", "n_mazes", "size", "trajectories", "maze_seed", "width", "walks")
    return run._asdict() | {"seed": seed} | {name: getattr(args, name) for name in shared}


def execute(run: Run, data: Any, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train and measure one run."""
    seed_all(seed)
    algo = make_algo(run, args)
    start = time.perf_counter()
    algo.fit(
        data.dataset,
        n_steps=args.steps,
        n_steps_per_epoch=args.steps,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
    )
    seconds = time.perf_counter() - start
    row: dict[str, Any] = settings_of(run, seed, args) | {"seconds": seconds}
    row["parameters"] = sum(p.numel() for p in algo.impl.modules.transformer.parameters())
    for split in ("pairs", "mazes"):
        walks = getattr(data, split)
        row[split] = dataclasses.asdict(accuracy(algo, walks))
        row[f"{split}_rollouts"] = dataclasses.asdict(
            rollout_success(algo, walks, max_walks=args.walks)
        )
    row["leak"] = leak_check(algo, data.pairs)
    batch = data.dataset.sample_trajectory_batch(BATCH, length=CONTEXT)
    count = count_operations(algo, TorchTrajectoryMiniBatch.from_batch(batch, device="cpu:0"))
    row["accumulates"] = count.accumulates
    row["multiply_accumulates"] = count.multiply_accumulates
    planner = [c for name, c in count.layers.items() if "planner" in name]
    row["planner_operations"] = sum(c.accumulates + c.multiply_accumulates for c in planner)
    return row


def markdown(found: dict[Run, list[dict[str, Any]]]) -> str:
    """A row a network: mean over seeds, bootstrap interval, number of seeds."""
    head = (
        *("network", "accuracy, pairs, %", "unseen mazes, %", "arrived, pairs, %"),
        *("unseen mazes, %", "AC, million", "MAC, million"),
    )
    rows = [
        (
            run.name,
            spread([100 * row["pairs"]["optimal"] for row in rows]),
            spread([100 * row["mazes"]["optimal"] for row in rows]),
            spread([100 * row["pairs_rollouts"]["success"] for row in rows]),
            spread([100 * row["mazes_rollouts"]["success"] for row in rows]),
            mean_of([row["accumulates"] / 1e6 for row in rows], 2),
            mean_of([row["multiply_accumulates"] / 1e6 for row in rows], 2),
        )
        for run, rows in found.items()
    ]
    return table(head, rows)


# Mazes and steps of the study: few, small, and many walks in each.
STUDY = {
    "n_mazes": 10, "size": 9, "trajectories": 200, "steps": 1500, "encoders": ["flat"],
    "seeds": [0, 1, 2],
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--study", action="store_true", help=f"defaults {STUDY}")
    add("--encoders", nargs="+", choices=["wavefront", "flat"], default=["wavefront", "flat"])
    add("--steps", type=int, default=600)
    add("--seeds", type=int, nargs="+", default=[0])
    add("--maze-seed", type=int, default=1)
    add("--n-mazes", type=int, default=200)
    add("--size", type=int, default=15, help="cells on a side")
    add("--trajectories", type=int, default=18, help="in each maze")
    add("--width", type=int, default=64)
    add("--walks", type=int, default=150)
    add("--minutes", type=float, default=1e6, help="start no run after so long")
    add("--jobs", type=int, default=1, help="processes at a time")
    add("--table", action="store_true", help="print what is kept in --out, and train nothing")
    add("--worker", action="store_true", help=argparse.SUPPRESS)  # one of --jobs
    add("--out", type=Path, default=Path("runs/maze"))
    if parser.parse_args(arguments).study:
        parser.set_defaults(**STUDY)
    args = parser.parse_args(arguments)
    try:
        for run, seed in listed(args):
            check_settings(path_of(run, seed, args), settings_of(run, seed, args))
    except ValueError as error:
        parser.error(str(error))
    return args


def listed(args: argparse.Namespace) -> list[tuple[Run, int]]:
    """Runs with their seeds, seeds first: a stopped list has all networks with the same seeds."""
    runs = make_runs(args.encoders, args.study)
    # What was asked for twice counts once.
    return list(dict.fromkeys((run, seed) for seed in args.seeds for run in runs))


def work(args: argparse.Namespace) -> None:
    """Run what is missing; print one line a run."""
    deadline = time.time() + 60 * args.minutes
    data = maze_dataset(
        seed=args.maze_seed,
        n_mazes=args.n_mazes,
        size=args.size,
        trajectories_per_maze=args.trajectories,
    )
    for run, seed in listed(args):
        path = path_of(run, seed, args)
        if path.exists() or time.time() < deadline:
            make = functools.partial(execute, run, data, args, seed)
            row = once(path, settings_of(run, seed, args), make)
            if row is not None:
                print(path.stem, json.dumps(row), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and print the table of what is there."""
    args = parse(arguments)
    if not args.table:
        own_commit()  # before anything long
        if args.jobs > 1:
            words = sys.argv[1:] if arguments is None else arguments
            share_out("benchmarks.maze_learning", [*words, "--worker"], args.jobs)
        else:
            work(args)
    if not args.worker:
        found: dict[Run, list[dict[str, Any]]] = {}
        for run, seed in listed(args):
            path = path_of(run, seed, args)
            if path.exists():
                found.setdefault(run, []).append(read_json(path))
        if args.table and not found:
            sys.exit(f"error: nothing of this list is done in {args.out}; start it without --table")
        print(markdown(found))


if __name__ == "__main__":
    main()
