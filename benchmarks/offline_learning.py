"""Offline learning on a D4RL-like file: spiking transformers beside d3rlpy's dense one.

    python -m benchmarks.offline_learning --algo dsformer-pssa --dataset FILE.npz --seed 0

One run; for a list of them that goes on where it was stopped see benchmarks.offline_runs.

Same width, layers, heads, context, batch, optimizer, schedule, steps and no dropout for every
algorithm; tokens, embedding and loss are its own. Every `--every` steps the mean return
of ten episodes and its D4RL-normalized score are printed. At the end the last checkpoint and the
best of those are scored anew, on 20 episodes from other seeds. All goes to `--out`.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import d3rlpy
import gymnasium
import numpy as np
from d3rlpy.logging import NoopAdapterFactory

from benchmarks import offline_networks
from benchmarks.offline_episodes import evaluate
from benchmarks.offline_networks import Recipe
from d3rlpy_spiking.datasets import d4rl_score, load_npz

ALGORITHMS = ("dsformer-pssa", "dsformer-tssa", "dsformer-sssa", "sdt", "dt")


def make_config(args: argparse.Namespace) -> Any:
    """The config of args.algo; everything but the blocks is the same."""
    recipe = Recipe(
        width=args.width, steps=args.steps, learning_rate=args.learning_rate, matmul="float32"
    )
    changes = {"normalization": args.normalization, "mask_statistics": args.mask_statistics}
    return offline_networks.make_config(args.algo, recipe, **changes)


def main() -> None:
    """Train, evaluate and report one run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algo", choices=ALGORITHMS, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--normalization", default="ptbn")
    parser.add_argument("--mask-statistics", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    args = parser.parse_args()
    print(json.dumps({k: str(v) for k, v in vars(args).items()}), flush=True)
    dataset = load_npz(args.dataset)
    env_id = str(np.load(args.dataset)["env_id"])
    d3rlpy.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  # d3rlpy draws its batches from it
    algo = make_config(args).create()
    algo.build_with_env(gymnasium.make(env_id))
    mask = "" if args.mask_statistics else "-unmasked"
    run = args.out / f"{args.algo}-{args.normalization}{mask}-{args.width}-{args.steps}-{args.seed}"
    run.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    start = time.perf_counter()

    def after_step(algo: Any, epoch: int, step: int) -> None:
        if step % args.every:
            return
        returns = evaluate(algo, env_id, args.episodes, seed=1000)
        mean = float(np.mean(returns))
        rows.append(
            {
                "step": step,
                "return": mean,
                "sd": float(np.std(returns)),
                "score": d4rl_score(env_id, mean),
                "seconds": time.perf_counter() - start,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        algo.save(str(run / f"{step}.d3"))
        write(run / "rows.json", rows)

    algo.fit(
        dataset,
        n_steps=args.steps,
        n_steps_per_epoch=args.every,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
        callback=after_step,
    )
    best = max(rows, key=lambda row: row["score"])["step"]
    final: dict[str, Any] = {"seconds": time.perf_counter() - start}
    for name, step in (("last", args.steps), ("best", best)):
        scored = d3rlpy.load_learnable(str(run / f"{int(step)}.d3"))
        returns = evaluate(scored, env_id, 20, seed=2000)
        mean = float(np.mean(returns))
        final[name] = {
            "step": step,
            "return": mean,
            "sd": float(np.std(returns)),
            "score": d4rl_score(env_id, mean),
        }
    write(run / "final.json", final)
    print(json.dumps(final), flush=True)


def write(path: Path, content: Any) -> None:
    """A JSON file, whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
