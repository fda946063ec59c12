"""MaskablePPO on sb3-contrib's environment with invalid actions, spiking and dense.

    python -m benchmarks.masked_learning

Forty actions of which thirty are masked in each state; the right one, always allowed, pays 1 a
step for 100 steps. Without masks the same algorithm is shown beside it. RL Zoo does not know
MaskablePPO, so the settings stand here, the same for both policies.
"""

import argparse
from typing import Any

import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from sb3_contrib.common.maskable.evaluation import evaluate_policy

import sb3_spiking

SETTINGS: dict[str, Any] = {
    "n_steps": 256, "batch_size": 64, "gamma": 0.4, "learning_rate": 1e-3,
}  # fmt: skip


def main() -> None:
    """Train and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_480)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| policy | masks | seed | mean return over 50 episodes (best 100) |")
    print("|---|---|---|---|")
    for policy in (sb3_spiking.SpikingPopPolicy, "MlpPolicy"):
        for masks in (True, False):
            for seed in args.seeds:
                print(f"| {policy} | {masks} | {seed} | {train(policy, masks, seed, args.steps)} |")


def train(policy: str, masks: bool, seed: int, steps: int) -> str:
    """Mean return and its sd after training."""
    env: Any = InvalidActionEnvDiscrete(dim=40, n_invalid_actions=30)
    model = MaskablePPO(policy, env, **SETTINGS, seed=seed, device="cpu")
    model.learn(steps, use_masking=masks)
    mean, sd = evaluate_policy(model, env, 50, use_masking=masks, warn=False)
    return f"{mean:.1f} ({sd:.1f})"


if __name__ == "__main__":
    main()
