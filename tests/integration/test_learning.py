"""Whole learning runs; minutes each."""

import numpy as np
import pytest
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_spiking  # noqa: F401  # registers


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pendulum_with_the_defaults(seed: int) -> None:
    model = TD3("SpikingPopPolicy", "Pendulum-v1", seed=seed, device="cpu").learn(10_000)
    env = make_vec_env("Pendulum-v1", seed=10_000)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=20, return_episode_rewards=True)
    print(f"seed {seed}: {np.mean(returns):.1f} (sd {np.std(returns):.1f})")
    assert np.mean(returns) >= -200
