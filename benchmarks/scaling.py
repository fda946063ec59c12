"""One process, two ranks, and mixed precision on the same task: returns and where the time goes.

    python -m benchmarks.scaling --out runs/scaling

Every way has the same number of environment steps over all ranks, one thread a process, and the
hyperparameters of the installed RL Zoo. Ways:

    one     one process
    two     two ranks, each with the file's batch size: half as many updates by twice the batch
    split   two ranks, half a batch each: as many updates as one process
    bf16    one process, layers in bfloat16

A run that has its record in --out is not repeated. Afterwards each policy plays 20 episodes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sb3_spiking  # noqa: F401  # registers the policies
from policies.energy.gps_up import RunRecord

EPISODES = 20
WAYS: dict[str, tuple[int, list[str]]] = {
    "one": (1, []),
    "two": (2, []),
    "split": (2, ["--split"]),
    "bf16": (1, ["--amp", "bf16"]),
}


def train(args: argparse.Namespace, way: str, seed: int) -> Path:
    """The folder of a run, which is made if it is not there."""
    ranks, options = WAYS[way]
    logs = args.out / f"{args.algo}_{way}_{seed}"
    run: Path = logs / args.algo / f"{args.env}_1"
    if (run / "distributed.json").exists():
        return run
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(ranks), "-m", "sb3_spiking.distributed", "train", *options,
        *(["--dense"] if args.dense else []),
        "--algo", args.algo, "--env", args.env, "-n", str(args.steps), "--seed", str(seed),
        "--eval-freq", "-1", "--num-threads", "1", "-f", str(logs), "-tb", str(logs),
        "--save-freq", str(10 * args.steps),
        *(["-params", *args.params] if args.params else []),
    ]  # fmt: skip
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environ, capture_output=True)
    return run


def evaluate(args: argparse.Namespace, run: Path) -> float:
    """Mean return of a run's policy, kept in its folder."""
    path = run / "returns.json"
    if not path.exists():
        algorithm: type[BaseAlgorithm] = _algorithms()[args.algo]
        model = algorithm.load(run / f"{args.env}.zip", device="cpu")
        env: Any = Monitor(gymnasium.make(args.env))
        env.reset(seed=1000)
        returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
        path.write_text(json.dumps(returns))
    return float(statistics.mean(json.loads(path.read_text())))


def _algorithms() -> dict[str, Any]:
    from rl_zoo3 import ALGOS

    return dict(ALGOS)


def gradient_norms(logs: Path, name: str) -> list[float]:
    """Mean norm of a gradient in each tenth of a run."""
    events = EventAccumulator(str(next(logs.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    values = [event.value for event in events.Scalars(f"train/{name}_grad_norm")]
    size = max(len(values) // 10, 1)
    return [statistics.mean(values[i : i + size]) for i in range(0, size * 10, size)]


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True)
    add("--algo", default="td3")
    add("--env", default="Pendulum-v1")
    add("--steps", type=int, default=20_000)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    add("--dense", action="store_true")
    add("--params", nargs="+", default=[], help="hyperparameters, as RL Zoo's -params")
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for way in args.ways:
            run = train(args, way, seed)
            record = RunRecord.load(run / "distributed.json")
            rows.append((way, seed, evaluate(args, run), record))
            print(f"{way} seed {seed}: return {rows[-1][2]:.1f}", flush=True)
    print_tables(args, rows)


def print_tables(args: argparse.Namespace, rows: list[tuple[str, int, float, RunRecord]]) -> None:
    """Returns, and seconds by what they went to, as Markdown."""
    print("\n| way | return, mean (seeds) | wall, s | environment | gradient | exchange | x |")
    print("|---|---|---|---|---|---|---|")
    base = None
    for way in args.ways:
        mine = [row for row in rows if row[0] == way]
        returns = [row[2] for row in mine]
        parts = {
            name: statistics.median(row[3].parts[name] for row in mine)
            for name in ("environment", "gradient", "exchange")
        }
        parts["total"] = statistics.median(row[3].seconds for row in mine)
        base = parts["total"] if base is None else base
        listed = ", ".join(f"{x:.0f}" for x in returns)
        print(
            f"| {way} | {statistics.mean(returns):.1f} ({listed}) | {parts['total']:.0f} "
            f"| {parts['environment']:.0f} | {parts['gradient']:.0f} | {parts['exchange']:.0f} "
            f"| {base / parts['total']:.2f} |"
        )
    for way in args.ways:
        for name in ("actor", "critic"):
            try:
                norms = [
                    gradient_norms(args.out / f"{args.algo}_{way}_{seed}", name)
                    for seed in args.seeds
                ]
            except (KeyError, statistics.StatisticsError):
                continue  # an algorithm without that optimizer, or too few lines in the log
            middle = [statistics.median(column) for column in zip(*norms, strict=True)]
            print(f"{way} {name} gradient norm by tenths: {[float(f'{x:.3g}') for x in middle]}")


if __name__ == "__main__":
    main()
