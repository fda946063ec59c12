r"""Fine-tuning an offline-trained Decision Transformer, spiking or dense, in its environment.

    python -m benchmarks.finetune_online --runs runs/offline --dataset walker2d_medium_replay.npz \
        --networks dt dsformer-pssa --out runs/studies/finetune
    python -m benchmarks.finetune_online --table --networks dt dsformer-pssa-both \
        --out docs/data/studies/finetune

Takes the last checkpoint of each run of benchmarks.offline_runs. The best episodes of the offline
data fill a buffer; in each round the network plays `--episodes` with noise on its actions, asked
for `--ask` times the return of the offline data's best episode; they replace the oldest ones, and
the network trains on the buffer for `--updates` steps. Returns-to-go are those that came of it, so
that what was asked for and not reached is learned as what it was. Before the first round and after
each, ten noiseless episodes are played. What is done is skipped, what another process works on is
left to it.

Source of the scheme: the Online Decision Transformer of Zheng, Zhang, Grover 2022
(arXiv:2202.05607). Its policy is stochastic and trained with an entropy bound; ours stays
deterministic, and the noise is fixed.
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import Episode, FIFOBuffer, ReplayBuffer
from d3rlpy.optimizers import AdamWFactory

from benchmarks.commits import own_commit
from benchmarks.energy import table
from benchmarks.jobs import share_out
from benchmarks.kept import check_settings, once, sha256
from benchmarks.offline_episodes import Played, environment, evaluate, roll_out
from benchmarks.offline_training import Late, Task, seed_all, summary
from benchmarks.studies.text import spread
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.cli.runs import load_algorithm, read_json

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


def fine_tune(
    path: Path, task: Task, seed: int, args: argparse.Namespace, deadline: float
) -> dict[str, Any]:
    """Fine-tune a checkpoint and say how its returns went.

    Raises:
        Late: if `time.time()` passes the deadline before the last round.
    """
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
        if time.time() > deadline:
            raise Late
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


class Source(NamedTuple):
    """The offline run that a fine-tuning starts from."""

    network: str
    seed: int

    def folder(self, args: argparse.Namespace) -> Path:
        """Its checkpoints."""
        return Path(args.runs, args.dataset.stem, f"{self.network}_c{args.context}_{self.seed}")

    def checkpoint(self, args: argparse.Namespace) -> Path | None:
        """Its last checkpoint; None if it is not done."""
        folder = self.folder(args)
        # No with_suffix: it would cut names that hold a dot.
        result = folder.with_name(f"{folder.name}.json")
        if not result.exists():
            return None
        path = folder / f"model_{read_json(result)['last']['step']}.d3"
        if not path.exists():
            raise FileNotFoundError(
                f"there is no {path}, the last checkpoint of a finished run; put it back, or "
                f"remove {result} and {folder} and train it anew"
            )
        return path

    def result(self, args: argparse.Namespace) -> Path:
        """The file of its fine-tuning."""
        return Path(args.out, f"{args.dataset.stem}_{self.network}_{self.seed}.json")


def listed(args: argparse.Namespace) -> list[Source]:
    """Seeds first: a stopped list has all networks with the same seeds."""
    asked = (Source(network, seed) for seed in args.seeds for network in args.networks)
    return list(dict.fromkeys(asked))  # what was asked for twice counts once


def checkpoints(args: argparse.Namespace) -> dict[Source, Path]:
    """Where each fine-tuning starts.

    Raises:
        FileNotFoundError: naming all offline runs that are not done, or one that has lost its
            checkpoint.
    """
    found = {source: source.checkpoint(args) for source in listed(args)}
    missing = [source for source, path in found.items() if path is None]
    if missing:
        networks = " ".join(dict.fromkeys(source.network for source in missing))
        seeds = " ".join(dict.fromkeys(str(source.seed) for source in missing))
        raise FileNotFoundError(
            f"there is no finished run {', '.join(str(one.folder(args)) for one in missing)}; "
            f"train what is missing: python -m benchmarks.offline_runs --networks {networks} "
            f"--seeds {seeds} --contexts {args.context} --datasets {args.dataset} --out {args.runs}"
        )
    return {source: path for source, path in found.items() if path is not None}


def settings_of(source: Source, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What decides a result; of the checkpoint its path below --runs and its digest."""
    names = ("rounds", "episodes", "updates", "buffer", "noise", "ask", "learning_rate", "context")
    return {
        **{name: getattr(args, name) for name in names},
        **source._asdict(),
        "dataset": args.dataset.name,
        "source": {"path": path.relative_to(args.runs).as_posix(), "sha256": sha256(path)},
    }


def source_parser(
    text: str | None, networks: list[str], seeds: list[int]
) -> argparse.ArgumentParser:
    """A parser with the options that say which offline runs' checkpoints are taken.

    Args:
        text: what the command does.
        networks: default of --networks.
        seeds: default of --seeds.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--runs", type=Path, default=Path("runs/offline"), help="--out of benchmarks.offline_runs")
    add("--dataset", type=Path, default=Path("runs/offline/walker2d_medium_replay.npz"))
    add("--networks", nargs="+", default=networks)
    add("--seeds", type=int, nargs="+", default=seeds)
    add("--context", type=int, default=20)
    return parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = source_parser(__doc__, ["dt", "dsformer-pssa"], [0, 1, 2])
    add: Any = parser.add_argument
    add("--rounds", type=int, default=20)
    add("--episodes", type=int, default=5, help="in a round")
    add("--updates", type=int, default=100, help="in a round")
    add("--buffer", type=int, default=100_000, help="steps of the buffer")
    add("--noise", type=float, default=0.1, help="sd of the noise on actions in [-1, 1]")
    add("--ask", type=float, default=1.2, help="return asked for, in best returns of the data")
    add("--learning-rate", type=float, default=1e-4)
    minutes_help = "stop after so long; what is in the middle then begins anew the next time"
    add("--minutes", type=float, default=1e6, help=minutes_help)
    add("--jobs", type=int, default=1, help="processes at a time")
    add("--table", action="store_true", help="print what is kept in --out, and train nothing")
    add("--worker", action="store_true", help=argparse.SUPPRESS)  # one of --jobs
    add("--out", type=Path, default=Path("runs/studies/finetune"))
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Raise for what would fail hours later.

    Raises:
        FileNotFoundError: if the dataset or an offline checkpoint is missing.
        ValueError: if a result was made with other settings, or the dataset's environment cannot
            be made.
    """
    if not args.dataset.is_file():
        raise FileNotFoundError(f"there is no dataset {args.dataset}; name one with --dataset")
    environment(args.dataset)
    for source, path in checkpoints(args).items():
        check_settings(source.result(args), settings_of(source, path, args))


def made(
    settings: dict[str, Any], path: Path, task: Task, args: argparse.Namespace, deadline: float
) -> dict[str, Any]:
    """What is kept of a fine-tuning."""
    with quiet_logs():
        return {"settings": settings} | fine_tune(path, task, settings["seed"], args, deadline)


def work(args: argparse.Namespace) -> None:
    """Fine-tune what is missing, until the time is over."""
    torch.set_num_threads(1)
    deadline = time.time() + 60 * args.minutes
    with quiet_logs():
        task = Task.load(args.dataset, args.context)
    for source, path in checkpoints(args).items():
        settings, kept = settings_of(source, path, args), source.result(args)
        make = functools.partial(made, settings, path, task, args, deadline)
        try:
            result = once(kept, settings, make)
        except Late:
            print(f"{kept.stem}: the time is over", flush=True)
            return
        if result is not None:
            print(f"{kept.stem}: {shown(result, 0):.1f} -> {shown(result, -1):.1f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Fine-tune what is missing, and print the table of what is there.

    Raises:
        FileNotFoundError, ValueError: as `check`; the former too if there is nothing to print.
    """
    args = parse(arguments)
    if not args.table:
        own_commit()  # before anything long
        check(args)
        if args.jobs > 1:
            words = sys.argv[1:] if arguments is None else arguments
            share_out("benchmarks.finetune_online", [*words, "--worker"], args.jobs)
        else:
            work(args)
    found: dict[str, list[dict[str, Any]]] = {}
    for source in listed(args):
        if source.result(args).exists():
            found.setdefault(source.network, []).append(read_json(source.result(args)))
    if args.table and not found:
        raise FileNotFoundError(
            f"nothing of this list is done in {args.out}; start it without --table"
        )
    if found and not args.worker:
        print(markdown(found))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
