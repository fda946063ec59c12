"""What a training step of each network of the offline runs costs on one thread, and a list of runs.

    python -m benchmarks.offline_cost --dataset FILE.npz --widths 64 128 --steps 3000 --runs 9

Networks take turns step by step, so all share a load; medians of the process's own time, which
others on the machine lengthen less than the clock's. `h` is what --runs runs of --steps steps take,
without episodes.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from d3rlpy.algos.utility import build_scalers_with_trajectory_slicer

from benchmarks.offline_networks import GROUPS, Recipe, make_config, network_names
from benchmarks.offline_training import Task
from d3rlpy_spiking.cli.quiet import quiet_logs


def build(name: str, recipe: Recipe, task: Task) -> Any:
    """A network past PTBN's transition."""
    config = make_config(name, recipe, task.reward_scale)
    if hasattr(config, "ptbn_steps"):
        config.ptbn_steps = 1
    algo = config.create("cpu:0")
    signature = task.buffer.episodes[0].observation_signature
    algo.create_impl(signature.shape[0], task.buffer.dataset_info.action_size)
    build_scalers_with_trajectory_slicer(algo, task.buffer)
    return algo


def measure(algos: list[Any], task: Task, recipe: Recipe, rounds: int) -> list[float]:
    """Median milliseconds of a step of each, the drawing of its batch included."""
    seconds: list[list[float]] = [[] for _ in algos]
    for turn in range(rounds + 3):
        for algo, found in zip(algos, seconds, strict=True):
            start = time.process_time()
            algo.update(task.buffer.sample_trajectory_batch(recipe.batch, recipe.context))
            if turn >= 3:  # the first ones compile
                found.append(time.process_time() - start)
    return [1e3 * statistics.median(found) for found in seconds]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--dataset", type=Path, required=True)
    add("--networks", nargs="+", default=list(GROUPS["main"]))
    add("--widths", type=int, nargs="+", default=[Recipe.width])
    add("--context", type=int, default=Recipe.context)
    add("--batch", type=int, default=Recipe.batch)
    add("--rounds", type=int, default=20)
    add("--steps", type=int, default=Recipe.steps)
    add("--runs", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = Task.load(args.dataset, args.context)
    cases = []
    for width in args.widths:
        for name in network_names(args.networks):
            for matmul in ("float32",) if name == "dt" else ("float32", "bf16"):
                recipe = Recipe(width=width, context=args.context, batch=args.batch, matmul=matmul)
                with quiet_logs():
                    cases.append((name, recipe, build(name, recipe, task)))
    times = measure([case[2] for case in cases], task, cases[0][1], args.rounds)
    print("| network | width | matmuls | parameters | ms a step | h |\n|---|---|---|---|---|---|")
    for (name, recipe, algo), ms in zip(cases, times, strict=True):
        size = sum(p.numel() for p in algo.impl.modules.transformer.parameters())
        hours = ms * args.steps * args.runs / 3.6e6
        print(f"| {name} | {recipe.width} | {recipe.matmul} | {size:,} | {ms:.0f} | {hours:.2f} |")


if __name__ == "__main__":
    main()
