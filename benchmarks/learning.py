"""Learning curves of a spiking and a dense policy: same algorithm, same settings, same seeds.

    python -m benchmarks.learning --env Pendulum-v1 --steps 10000 --seeds 0 1 2 --target -200

Everything but the policy's name is Stable-Baselines3's default. Each run is evaluated on its own
environment every --eval-freq steps; curves go to OUT/<env>_<policy>_<seed>.csv as they grow, and a
run whose curve is complete there is not repeated.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_spiking

Curve = list[tuple[int, float, float]]
ALGORITHMS = {"a2c": A2C, "ddpg": DDPG, "ppo": PPO, "sac": SAC, "td3": TD3}


class CurveCallback(BaseCallback):
    """Evaluate every `freq` steps and append (steps, mean return, sd) to a CSV file."""

    def __init__(self, path: Path, env: str, freq: int, episodes: int) -> None:
        super().__init__()
        self.path, self.freq, self.episodes = path, freq, episodes
        # Another seed than any training environment's; the same for every run.
        self.eval_env = make_vec_env(env, seed=10_000)

    def _on_step(self) -> bool:
        if self.num_timesteps % self.freq == 0:
            returns, _ = evaluate_policy(
                self.model, self.eval_env, self.episodes, return_episode_rewards=True
            )
            with self.path.open("a", newline="") as file:
                row = (self.num_timesteps, f"{np.mean(returns):.2f}", f"{np.std(returns):.2f}")
                csv.writer(file).writerow(row)
        return True


def read_curve(path: Path) -> Curve:
    """Rows of a curve file; empty if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(int(step), float(mean), float(sd)) for step, mean, sd in csv.reader(file)]


def run(args: argparse.Namespace, policy: str, seed: int) -> Curve:
    """Train one model, or read its finished curve."""
    path: Path = args.out / f"{args.env}_{args.algo}_{policy}_{seed}.csv"
    curve = read_curve(path)
    if not curve or curve[-1][0] < args.steps:
        path.unlink(missing_ok=True)
        model = ALGORITHMS[args.algo](policy, args.env, seed=seed, device="cpu")
        model.learn(args.steps, CurveCallback(path, args.env, args.eval_freq, args.episodes))
        curve = read_curve(path)
    return curve


def steps_to(curve: Curve, target: float) -> str:
    """Steps of the first evaluation that reaches the target."""
    return next((str(step) for step, mean, _ in curve if mean >= target), "-")


def main() -> None:
    """Run all seeds of all policies and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algo", choices=sorted(ALGORITHMS), default="td3")
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--policies", nargs="+", default=[sb3_spiking.SpikingPopPolicy, "MlpPolicy"]
    )
    parser.add_argument("--eval-freq", type=int, default=1_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--target", type=float, default=-200.0)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print("policy | seed | mean return at the end (sd over episodes) | best | steps to target")
    for policy in args.policies:
        for seed in args.seeds:
            curve = run(args, policy, seed)
            _, mean, sd = curve[-1]
            best = max(row[1] for row in curve)
            reached = steps_to(curve, args.target)
            print(f"{policy} | {seed} | {mean:.1f} ({sd:.1f}) | {best:.1f} | {reached}", flush=True)


if __name__ == "__main__":
    main()
