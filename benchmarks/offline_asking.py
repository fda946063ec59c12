"""What trained Decision Transformers do with the return that they are asked for.

    python -m benchmarks.offline_asking --networks dt dsformer-pssa --asks 1500 3500 5000

On the last checkpoints of benchmarks.offline_runs, without further training: episodes with the
seeds of that benchmark's last evaluation, so that the return which it asked for gives its result
again. What is done is skipped, unless it was of another checkpoint, which is an error. The table
has the mean over seeds of D4RL's score (of the return where it has none), its interval and number.
"""

import argparse
import functools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.commits import own_commit
from benchmarks.energy import table
from benchmarks.finetune_online import Source, checkpoints, listed, source_parser
from benchmarks.kept import check_settings, once, sha256
from benchmarks.offline_episodes import environment, evaluate
from benchmarks.offline_networks import NETWORKS
from benchmarks.offline_training import FINAL, summary
from benchmarks.studies.text import spread
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.cli.runs import load_algorithm, read_json
from d3rlpy_spiking.datasets import load_npz


def best_return(path: Path) -> float:
    """The return of the best episode of a dataset, to four digits."""
    with quiet_logs():
        best = max(float(np.sum(episode.rewards)) for episode in load_npz(path).episodes)
    return float(f"{best:.4g}")


def kept_in(args: argparse.Namespace, source: Source, ask: float) -> Path:
    """The file of a result."""
    name = f"{source.network}_c{args.context}_{source.seed}_{ask!r}.json"
    return Path(args.out, args.dataset.stem, name)


def settings_of(source: Source, path: Path, ask: float, args: argparse.Namespace) -> dict[str, Any]:
    """What decides a result; of the checkpoint its path below --runs and its digest."""
    return {
        **source._asdict(),
        "dataset": args.dataset.name,
        "context": args.context,
        "ask": ask,
        "source": {"path": path.relative_to(args.runs).as_posix(), "sha256": sha256(path)},
    }


def played(settings: dict[str, Any], path: Path, env: str) -> dict[str, Any]:
    """What is kept of a checkpoint and an asked return."""
    episodes, seed = FINAL
    with quiet_logs():
        returns = evaluate(load_algorithm(path, "cpu:0"), env, episodes, seed, settings["ask"])
    return {"settings": settings} | summary(env, [round(value, 3) for value in returns])


def markdown(args: argparse.Namespace) -> str:
    """A row a network, a column an asked return."""
    rows = []
    for network in dict.fromkeys(source.network for source in listed(args)):
        cells = []
        for ask in args.asks:
            seeds = dict.fromkeys(args.seeds)  # what was asked for twice counts once
            files = [kept_in(args, Source(network, seed), ask) for seed in seeds]
            found = [read_json(file) for file in files if file.exists()]
            values = [one["mean"] if one["score"] is None else one["score"] for one in found]
            cells.append(spread(values) if values else "-")
        rows.append((network, *cells))
    return table(("network", *(f"asked for {ask:,.10g}" for ask in args.asks)), rows)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = source_parser(__doc__, ["dt", "dsformer-pssa"], [0, 1, 2])
    add: Any = parser.add_argument
    asks_help = "returns; without them the one of benchmarks.offline_runs and the data's best"
    add("--asks", type=float, nargs="+", metavar="RETURN", help=asks_help)
    table_help = "print what is kept in --out, and play nothing"
    add("--table", action="store_true", help=table_help)
    add("--out", type=Path, default=Path("runs/asking"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing, and print the table.

    Raises:
        FileNotFoundError: if the dataset or an offline checkpoint is missing.
        ValueError: if a result is of another checkpoint.
    """
    args = parse(arguments)
    if not args.table or args.asks is None:
        if not args.dataset.is_file():
            raise FileNotFoundError(f"there is no dataset {args.dataset}; name one with --dataset")
        env, target = environment(args.dataset)
        if args.asks is None:
            args.asks = [target, best_return(args.dataset)]
    args.asks = list(dict.fromkeys(args.asks))
    if not all(math.isfinite(ask) for ask in args.asks):
        raise ValueError(f"--asks must be finite returns, got {args.asks}")
    unknown = [name for name in args.networks if name not in NETWORKS]
    if unknown:
        raise ValueError(f"--networks must be among {', '.join(NETWORKS)}, got {unknown}")
    if not args.table:
        own_commit()  # before anything long
        torch.set_num_threads(1)
        work = [
            (kept_in(args, source, ask), settings_of(source, path, ask, args), path)
            for source, path in checkpoints(args).items()
            for ask in args.asks
        ]
        for kept, settings, _ in work:
            check_settings(kept, settings)
        for kept, settings, path in work:
            result = once(kept, settings, functools.partial(played, settings, path, env))
            if result is not None:
                print(f"{kept.stem}: {result['mean']:.0f} ({result['sd']:.0f})", flush=True)
    print(markdown(args))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
