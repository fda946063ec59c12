"""Train a spiking policy on Pendulum-v1, watch it, measure it, save it.

    python -m examples.demo            # about three minutes on two cores

Everything it writes goes to runs/demo: model.zip, learning_curve.png, TensorBoard logs with what
the spike monitor saw, and a report about the trained policy beside the dense network of its size.
"""

import argparse
import os
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_spiking
from sb3_spiking.callbacks import SpikeMonitorCallback
from sb3_spiking.report.__main__ import main as report

mpl.use("Agg")

from matplotlib import pyplot as plt  # after the backend is chosen: no display needed

ENV = "Pendulum-v1"


def evaluate(model: TD3, episodes: int) -> str:
    """Mean and standard deviation of the return, over the same episodes each time."""
    returns, _ = evaluate_policy(
        model, make_vec_env(ENV, seed=20_000), episodes, return_episode_rewards=True
    )
    return f"{np.mean(returns):.1f} (sd {np.std(returns):.1f})"


def draw_curve(evaluations: Path, path: Path) -> None:
    """The learning curve that EvalCallback logged, as a PNG."""
    with np.load(evaluations) as log:
        steps, returns = log["timesteps"], log["results"]
    mean, sd = returns.mean(axis=1), returns.std(axis=1)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(steps, mean, marker="o", label=sb3_spiking.SpikingPopPolicy)
    axes.fill_between(steps, mean - sd, mean + sd, alpha=0.2, label="± 1 sd over episodes")
    axes.set(xlabel="environment steps", ylabel="return", title=f"TD3 on {ENV}")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    """Train, evaluate, save, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20, help="of each evaluation")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model = TD3(
        "SpikingPopPolicy", ENV, seed=args.seed, tensorboard_log=str(args.out / "tensorboard")
    )
    before = evaluate(model, args.episodes)
    watch = EvalCallback(
        make_vec_env(ENV, seed=10_000), n_eval_episodes=5, eval_freq=min(500, args.steps),
        log_path=str(args.out), verbose=0,
    )  # fmt: skip
    monitor = SpikeMonitorCallback(every=500, raster_every=4_000)
    model.learn(args.steps, callback=[watch, monitor], progress_bar=True)
    after = evaluate(model, args.episodes)

    # Written beside and renamed: an interrupted save leaves no half file under the final name.
    model.save(args.out / "model.partial.zip")
    os.replace(args.out / "model.partial.zip", args.out / "model.zip")
    draw_curve(args.out / "evaluations.npz", args.out / "learning_curve.png")
    print(f"mean return over {args.episodes} episodes: before {before}, after {after}\n")
    folder = args.out / "report"
    arguments = ["--env", ENV, "--episodes", str(args.episodes), "--out", str(folder)]
    code = report([str(args.out / "model.zip"), *arguments])
    print(f"model {args.out / 'model.zip'}, curve {args.out / 'learning_curve.png'}")
    print(f"the report as a page: {folder / 'report.html'}")
    print(f"watch the run: tensorboard --logdir {args.out / 'tensorboard'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
