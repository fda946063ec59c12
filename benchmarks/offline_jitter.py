"""How smooth trained policies are, and what noise on their actions costs.

    python -m benchmarks.offline_jitter --networks dt dsformer-pssa-both --seeds 10

On the last checkpoints of benchmarks.offline_runs. Error: mean squared error of the dataset's
actions. Change: root mean square by which an action moves when the observations of its context get
normal noise, in standard deviations of the data. A smooth function moves in proportion to it; one
made of spikes jumps. Return: of episodes with normal noise on each action, their number in
brackets.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from d3rlpy.dataset import TrajectoryMiniBatch
from torch import Tensor

from benchmarks.energy import table
from benchmarks.finetune_online import checkpoints, source_parser
from benchmarks.offline_episodes import roll_out
from benchmarks.offline_training import Task, seed_all
from benchmarks.studies.text import spread
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.cli.runs import load_algorithm

BATCHES, BATCH = 10, 64
FIRST_SEED = 4000


@torch.no_grad()
def actions(algo: Any, batch: TrajectoryMiniBatch, noise: Tensor | float = 0.0) -> Tensor:
    """Actions [B, L, A] at each step of a batch's contexts, in evaluation mode.

    Args:
        algo: a built Decision Transformer with continuous actions.
        batch: contexts.
        noise: added to observations in standard deviations, [B, L, O].
    """
    algo.impl.modules.set_eval()
    config = algo.config
    observations = torch.as_tensor(np.asarray(batch.observations), dtype=torch.float32)
    returns = torch.as_tensor(batch.returns_to_go, dtype=torch.float32)
    out: Tensor = algo.impl.modules.transformer(
        config.observation_scaler.transform(observations) + noise,
        torch.as_tensor(batch.actions, dtype=torch.float32),
        config.reward_scaler.transform(returns),
        torch.as_tensor(batch.timesteps).long(),
        1 - torch.as_tensor(batch.masks, dtype=torch.float32),
    )
    return out


def smoothness(
    algo: Any, batches: Sequence[TrajectoryMiniBatch], noises: Sequence[float]
) -> tuple[float, list[float]]:
    """Mean squared error of the data's actions, and the change of actions at each noise."""
    generator = torch.Generator().manual_seed(0)
    errors: list[Tensor] = []
    moved: list[list[Tensor]] = [[] for _ in noises]
    for batch in batches:
        exists = torch.as_tensor(batch.masks).bool()
        plain = actions(algo, batch)
        target = torch.as_tensor(batch.actions, dtype=torch.float32)
        errors.append((plain - target).square().mean(-1)[exists])
        for noise, found in zip(noises, moved, strict=True):
            drawn = torch.randn(np.asarray(batch.observations).shape, generator=generator)
            other = actions(algo, batch, noise * drawn)
            found.append((other - plain).square().mean(-1)[exists])
    return float(torch.cat(errors).mean()), [float(torch.cat(f).mean().sqrt()) for f in moved]


def row(path: Path, name: str, task: Task, args: argparse.Namespace) -> tuple[str, ...]:
    """The row of a checkpoint."""
    with quiet_logs():
        algo = load_algorithm(path, "cpu:0")
    seed_all(0)  # batches are drawn from numpy's own generator
    batches = [
        task.buffer.sample_trajectory_batch(BATCH, algo.config.context_size) for _ in range(BATCHES)
    ]
    error, moved = smoothness(algo, batches, args.changes)
    returns = [
        [
            sum(one.rewards)
            for one in roll_out(algo, task.env, args.episodes, FIRST_SEED, task.target, noise)
        ]
        for noise in args.noises
    ]
    return (name, f"{error:.4f}", *(f"{m:.4f}" for m in moved), *(spread(r) for r in returns))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = source_parser(__doc__, ["dt", "dsformer-pssa-both"], [0])
    add: Any = parser.add_argument
    add("--changes", type=float, nargs="+", default=[0.001, 0.01, 0.1], help="of observations, sd")
    add("--noises", type=float, nargs="+", default=[0.0, 0.05, 0.1], help="on actions, sd")
    add("--episodes", type=int, default=20)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table.

    Raises:
        FileNotFoundError: if the dataset or an offline checkpoint is missing.
    """
    args = parse(arguments)
    torch.set_num_threads(1)
    found = checkpoints(args)
    with quiet_logs():
        task = Task.load(args.dataset, args.context)
    heads = ("network, seed", "error", *(f"change at {c:g}" for c in args.changes))
    rows = [
        row(path, f"{source.network}, {source.seed}", task, args) for source, path in found.items()
    ]
    print(table((*heads, *(f"return, action noise {n:g}" for n in args.noises)), rows))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
