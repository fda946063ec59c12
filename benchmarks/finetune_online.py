"""Fine-tuning an offline-trained Decision Transformer, spiking or dense, in its environment.

    python -m benchmarks.finetune_online --runs runs/offline --dataset hopper_medium_replay.npz \
        --networks dt dsformer-pssa --out runs/studies/finetune --table

Takes the last checkpoint of each run of benchmarks.offline_runs. The best episodes of the offline
data fill a buffer; in each round the network plays `--episodes` with noise on its actions, asked
for `--ask` times the return of the offline data's best episode; they replace the oldest ones, and
the network trains on the buffer for `--updates` steps. Returns-to-go are those that came of it, so
that what was asked for and not reached is learned as what it was. Before the first round and after
each, ten noiseless episodes are played.

Source of the scheme: the Online Decision Transformer of Zheng, Zhang, Grover 2022
(arXiv:2202.05607). Its policy is stochastic and trained with an entropy bound; ours stays
deterministic, and the noise is fixed.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import Episode, FIFOBuffer, ReplayBuffer
from d3rlpy.optimizers import AdamWFactory

from benchmarks.energy import table
from benchmarks.offline_episodes import Played, evaluate, roll_out
from benchmarks.offline_training import Task, commit, seed_all, summary
from benchmarks.studies.text import spread
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.cli.runs import load_algorithm, read_json, write_json

TESTED = 10  # noiseless episodes after each round
_TEST_SEED = 3000
_PLAY_SEED = 100_000


def reopened(path: Path, learning_rate: float) -> Any:
    """A trained algorithm with an optimizer of its own: the schedule of its training is at 0."""
    before = load_algorithm(path, "cpu:0")
    old = before.config.optim_factory
    optimizer = AdamWFactory(weight_decay=old.weight_decay, clip_grad_norm=old.clip_grad_norm)
    config = dataclasses.replace(
        before.config, optim_factory=optimizer, learning_rate=learning_rate
    )
    algo = config.create("cpu:0")
    algo.create_impl(before.impl.observation_shape, before.impl.action_size)
    # PTBN's counters come with it: its transition is over.
    algo.impl.modules.transformer.load_state_dict(before.impl.modules.transformer.state_dict())
    return algo


def as_episode(played: Played) -> Episode:
    """An episode for d3rlpy's buffers."""
    return Episode(
        np.asarray(played.observations, np.float32),
        np.asarray(played.actions, np.float32),
        np.asarray(played.rewards, np.float32)[:, None],
        played.terminated,
    )


def best_episodes(buffer: ReplayBuffer, steps: int) -> list[Any]:
    """Whole episodes of the highest returns, the best last, of at most so many steps."""
    ranked = sorted(buffer.episodes, key=lambda episode: -float(np.sum(episode.rewards)))
    chosen: list[Any] = []
    for episode in ranked:
        if chosen and sum(map(len, chosen)) + len(episode) > steps:
            break
        chosen.append(episode)
    return chosen[::-1]


def fine_tune(path: Path, task: Task, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune a checkpoint and say how its returns went."""
    seed_all(seed)
    algo = reopened(path, args.learning_rate)
    start = best_episodes(task.buffer, args.buffer)
    asked = args.ask * max(float(np.sum(episode.rewards)) for episode in start)
    info = task.buffer.dataset_info
    buffer = ReplayBuffer(
        FIFOBuffer(args.buffer),
        episodes=start,
        trajectory_slicer=task.buffer.trajectory_slicer,
        action_space=ActionSpace.CONTINUOUS,
        action_size=info.action_size,
    )
    rounds: list[dict[str, Any]] = []
    lived, began = 0, time.perf_counter()
    for index in range(args.rounds + 1):
        entry: dict[str, Any] = {"env_steps": lived}
        if index:
            first = _PLAY_SEED * (seed + 1) + args.episodes * index
            found = roll_out(algo, task.env, args.episodes, first, asked, args.noise)
            for one in found:
                buffer.append_episode(as_episode(one))
                lived += len(one.rewards)
            losses = [
                algo.update(buffer.sample_trajectory_batch(algo.batch_size, args.context))["loss"]
                for _ in range(args.updates)
            ]
            entry = {
                "env_steps": lived,
                "explored": float(np.mean([sum(one.rewards) for one in found])),
                "loss": float(np.mean(losses)),
            }
        returns = evaluate(algo, task.env, TESTED, _TEST_SEED, task.target)
        rounds.append(entry | summary(task.env, returns))
    return {"rounds": rounds, "asked": asked, "seconds": time.perf_counter() - began}


def shown(result: dict[str, Any], index: int) -> float:
    """Score, or return where there is no score, after a round."""
    entry = result["rounds"][index]
    return float(entry["mean"] if entry["score"] is None else entry["score"])


def markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """A row a network; mean over seeds, bootstrap interval, number of seeds."""
    rows = [
        (
            name,
            spread([shown(one, 0) for one in results]),
            spread([shown(one, len(one["rounds"]) // 2) for one in results]),
            spread([shown(one, -1) for one in results]),
            spread([shown(one, -1) - shown(one, 0) for one in results]),
            f"{np.mean([one['rounds'][-1]['env_steps'] for one in results]):,.0f}",
        )
        for name, results in found.items()
    ]
    return table(("network", "before", "halfway", "after", "gain", "environment steps"), rows)


def checkpoint(args: argparse.Namespace, network: str, seed: int) -> Path:
    """The last checkpoint of an offline run.

    Raises:
        FileNotFoundError: if that run is not done.
    """
    run = args.runs / args.dataset.stem / f"{network}_c{args.context}_{seed}"
    try:
        step = json.loads(run.with_suffix(".json").read_text(encoding="utf-8"))["last"]["step"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no finished run {run}; train it: python -m benchmarks.offline_runs "
            f"--networks {network} --datasets {args.dataset} --out {args.runs}"
        ) from None
    return Path(run, f"model_{step}.d3")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--runs", type=Path, default=Path("runs/offline"), help="--out of benchmarks.offline_runs")
    add("--dataset", type=Path, default=Path("runs/offline/hopper_medium_replay.npz"))
    add("--networks", nargs="+", default=["dt", "dsformer-pssa"])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--context", type=int, default=20)
    add("--rounds", type=int, default=20)
    add("--episodes", type=int, default=5, help="in a round")
    add("--updates", type=int, default=100, help="in a round")
    add("--buffer", type=int, default=100_000, help="steps of the buffer")
    add("--noise", type=float, default=0.1, help="sd of the noise on actions in [-1, 1]")
    add("--ask", type=float, default=1.2, help="return asked for, in best returns of the data")
    add("--learning-rate", type=float, default=1e-4)
    add("--minutes", type=float, default=1e6, help="start nothing new after so long")
    add("--table", action="store_true", help="print a table of what is done at the end")
    add("--out", type=Path, default=Path("runs/studies/finetune"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Fine-tune what is missing."""
    args = parse(arguments)
    torch.set_num_threads(1)
    deadline = time.time() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    kept = ("rounds", "episodes", "updates", "buffer", "noise", "ask", "learning_rate", "context")
    settings = {name: getattr(args, name) for name in kept} | {"dataset": args.dataset.name}
    found: dict[str, list[dict[str, Any]]] = {}
    task: Task | None = None
    for seed in args.seeds:
        for network in args.networks:
            path = args.out / f"{args.dataset.stem}_{network}_{seed}.json"
            if not path.exists():
                if time.time() > deadline:
                    continue
                task = task or Task.load(args.dataset, args.context)
                with quiet_logs():
                    result = fine_tune(checkpoint(args, network, seed), task, seed, args)
                write_json(path, {"settings": settings, "commit": commit()} | result)
            result = read_json(path)
            if result["settings"] != settings:
                raise ValueError(
                    f"{path} was made with other settings, {result['settings']} and not "
                    f"{settings}; restore them, or choose another --out"
                )
            found.setdefault(network, []).append(result)
            print(f"{path.stem}: {shown(result, 0):.1f} -> {shown(result, -1):.1f}", flush=True)
    if args.table and found:
        print(markdown(found))


if __name__ == "__main__":
    main()
