"""Spiking and dense policies with the same RL Zoo file, through RL Zoo's own commands.

    python -m benchmarks.zoo_learning --algos ppo sac --seeds 0 1

Each run is a process of its own: `python -m sb3_spiking.zoo train ...` or, for the dense policy,
`python -m rl_zoo3.train ...` with the same arguments. Settings are those of the file that RL Zoo
installs (--config: of another), but for the number of steps where TASKS asks for fewer; RL Zoo
evaluates ten times on the way, 20 episodes each. Logs stay in OUT, and a run that is complete there
is not repeated.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """What an algorithm is asked to learn, and what counts as learned."""

    env: str
    steps: int
    target: float


CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
TASKS = {
    "ppo": Task(CARTPOLE, 100_000, 475),
    "a2c": Task(CARTPOLE, 500_000, 475),
    "dqn": Task(CARTPOLE, 60_000, 475),
    "qrdqn": Task(CARTPOLE, 60_000, 475),
    "trpo": Task(CARTPOLE, 100_000, 475),
    "ars": Task(CARTPOLE, 50_000, 475),
    "ppo_lstm": Task("CartPoleNoVel-v1", 100_000, 475),
    "sac": Task(PENDULUM, 10_000, -200),
    "tqc": Task(PENDULUM, 5_000, -200),
    "td3": Task(PENDULUM, 20_000, -200),
    "ddpg": Task(PENDULUM, 20_000, -200),
    "crossq": Task(PENDULUM, 5_000, -200),
}
EVALUATIONS = 10
EPISODES = 20


def command(args: argparse.Namespace, algo: str, kind: str, seed: int) -> list[str]:
    """The command line of one run."""
    task = TASKS[algo]
    module = ["sb3_spiking.zoo", "train"] if kind == "spiking" else ["rl_zoo3.train"]
    line = [
        *("-m", *module, "--algo", algo, "--env", task.env, "--seed", str(seed)),
        *("-n", str(task.steps), "--n-eval-envs", "10"),
        *("--eval-freq", str(task.steps // EVALUATIONS), "--eval-episodes", str(EPISODES)),
        *("--num-threads", "1", "--device", "cpu", "-f", str(folder(args, kind, seed))),
    ]
    if args.config:
        line += ["-conf", f"{args.config}/{algo}.yml"]
    if kind == "dense" and (algo == "ars" or args.config):
        # RL Zoo's file for ARS names a linear policy, and the spiking one has hidden layers; our
        # own files name spiking policies.
        name = "MlpLstmPolicy" if algo == "ppo_lstm" else "MlpPolicy"
        line += ["-params", f"policy:'{name}'"]
    return line


def folder(args: argparse.Namespace, kind: str, seed: int) -> Path:
    """Where RL Zoo logs a run."""
    files = Path(args.config).name if args.config else "installed"
    return Path(args.out) / files / f"{kind}_{seed}"


def curve(path: Path, steps: int) -> list[tuple[int, float, float]]:
    """(steps, mean return, sd over episodes) of each evaluation; empty if the run is incomplete."""
    for file in sorted(path.glob("*/evaluations.npz")):
        with np.load(file) as data:
            rows = [
                (int(step), float(np.mean(returns)), float(np.std(returns)))
                for step, returns in zip(data["timesteps"], data["results"], strict=True)
            ]
        if rows[-1][0] >= steps * (EVALUATIONS - 1) / EVALUATIONS:
            return rows
    return []


def run(args: argparse.Namespace, algo: str, kind: str, seed: int) -> None:
    """Train one model, or read its finished log, and print its line of the table."""
    task = TASKS[algo]
    path = folder(args, kind, seed) / algo
    if not curve(path, task.steps):
        path.mkdir(parents=True, exist_ok=True)
        line = command(args, algo, kind, seed)
        with (path / "output.txt").open("w") as file:
            subprocess.run([sys.executable, *line], stdout=file, stderr=file, check=True)
    rows = curve(path, task.steps)
    _, mean, sd = rows[-1]
    best = max(row[1] for row in rows)
    reached = next((f"{row[0]:,}" for row in rows if row[1] >= task.target), "-")
    print(
        f"| {algo} | {task.env} | {kind} | {seed} | {mean:.1f} ({sd:.1f}) | {best:.1f} "
        f"| {reached} |",
        flush=True,
    )


def main() -> None:
    """Run all that is asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algos", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", default=["spiking", "dense"])
    parser.add_argument("--config", help="folder of hyperparameter files in place of RL Zoo's")
    parser.add_argument("--out", default="runs/zoo")
    args = parser.parse_args()
    print("| algorithm | environment | policy | seed | last (sd) | best | steps to target |")
    print("|---|---|---|---|---|---|---|")
    for algo in args.algos:
        for kind in args.kinds:
            for seed in args.seeds:
                run(args, algo, kind, seed)


if __name__ == "__main__":
    main()
