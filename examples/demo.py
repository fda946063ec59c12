"""Train a spiking policy on Pendulum-v1, watch it, measure it, save it.

    python -m examples.demo            # about three minutes on two cores

Everything it writes goes to runs/demo: model.zip, learning_curve.png, TensorBoard logs.
"""

import argparse
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from stable_baselines3 import TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

import sb3_spiking
from policies import count_operations
from sb3_spiking.actors import SpikingActor
from sb3_spiking.callbacks import SpikeMonitorCallback

mpl.use("Agg")

from matplotlib import pyplot as plt  # after the backend is chosen: no display needed

ENV = "Pendulum-v1"


def evaluate(model: TD3, episodes: int) -> str:
    """Mean and standard deviation of the return, over the same episodes each time."""
    returns, _ = evaluate_policy(
        model, make_vec_env(ENV, seed=20_000), episodes, return_episode_rewards=True
    )
    return f"{np.mean(returns):.1f} (sd {np.std(returns):.1f})"


def visited_observations(model: TD3, env: VecEnv, steps: int = 200) -> NDArray[np.float32]:
    """Observations that the trained policy sees, [steps, obs_dim]."""
    seen = []
    obs = env.reset()
    for _ in range(steps):
        assert isinstance(obs, np.ndarray)
        seen.append(obs)
        action, _ = model.predict(obs, deterministic=True)
        obs, *_ = env.step(action)
    return np.concatenate(seen)


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


def report(model: TD3) -> Table:
    """Firing rates and operations per action, beside a dense actor of the same size."""
    actor = model.actor
    assert isinstance(actor, SpikingActor)
    obs = torch.as_tensor(visited_observations(model, make_vec_env(ENV, seed=30_000)))
    spiking = count_operations(actor.mu, obs)
    dense_actor = TD3("MlpPolicy", ENV, buffer_size=1).actor.mu
    dense = count_operations(dense_actor, obs)
    products = sum(m.weight.numel() for m in dense_actor.modules() if isinstance(m, nn.Linear))

    table = Table("measure", "value")
    for name, rate in spiking.firing_rates.items():
        table.add_row(f"firing rate, {name}", f"{rate:.3f} spikes per neuron and step")
    table.add_row("synaptic operations per action", f"{spiking.accumulates:,.0f} accumulates")
    table.add_row("", f"+ {spiking.multiply_accumulates:,.0f} multiply-accumulates (coding)")
    table.add_row("dense actor, all products", f"{products:,} multiply-accumulates")
    table.add_row(
        "dense actor, zeros skipped*", f"{dense.multiply_accumulates:,.0f} multiply-accumulates"
    )
    table.caption = "* as in the spiking count; ReLU network at its initialization"
    return table


def main() -> None:
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
    model.learn(args.steps, callback=[watch, SpikeMonitorCallback()], progress_bar=True)
    after = evaluate(model, args.episodes)

    # Written beside and renamed: an interrupted save leaves no half file under the final name.
    model.save(args.out / "model.partial.zip")
    os.replace(args.out / "model.partial.zip", args.out / "model.zip")
    draw_curve(args.out / "evaluations.npz", args.out / "learning_curve.png")
    table = report(model)
    table.title = f"TD3('SpikingPopPolicy', '{ENV}')"
    console = Console()
    console.print(f"mean return over {args.episodes} episodes: before {before}, after {after}")
    console.print(table)
    print(f"model {args.out / 'model.zip'}, curve {args.out / 'learning_curve.png'}")
    print(f"watch it: tensorboard --logdir {args.out / 'tensorboard'}")


if __name__ == "__main__":
    main()
