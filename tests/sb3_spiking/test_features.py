"""What SB3 users put around an algorithm, for each algorithm that has it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from policies.actor import PopulationBody
from tests.sb3_spiking import matrix


def check(model: Any, path: Path, env: Any = None) -> None:
    """It learns, predicts, saves and loads."""
    before = matrix.copies(matrix.acting_parameters(model))
    matrix.learn(model)
    matrix.assert_moved(matrix.acting_parameters(model), before)
    model.save(path / "model")
    loaded = type(model).load(path / "model", env=env, device="cpu")
    obs = matrix.observations(model)
    expected, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(expected, loaded.predict(obs, deterministic=True)[0])


def names(feature: str) -> list[str]:
    return next(names for name, names in matrix.FEATURES.items() if feature in name)


@pytest.mark.parametrize("algorithm", names("gSDE"))
def test_gsde(algorithm: str, tmp_path: Path) -> None:
    env = matrix.environment(algorithm, "Box", "Box")
    changes: dict[str, Any] = {
        "sde_sample_freq": 4,
        "policy_kwargs": {"log_std_init": -1.0, "use_expln": True},
    }
    check(matrix.make(algorithm, env, use_sde=True, **changes), tmp_path)


@pytest.mark.parametrize("algorithm", names("Her"))
def test_her(algorithm: str, tmp_path: Path) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=algorithm in matrix.REPLAY, max_steps=4)
    changes: dict[str, Any] = {
        "replay_buffer_class": HerReplayBuffer,
        "buffer_size": 100,
        "learning_starts": 16,
    }
    check(matrix.make(algorithm, env, "SpikingPopMultiInputPolicy", **changes), tmp_path, env)


@pytest.mark.parametrize("algorithm", names("VecFrameStack"))
def test_frame_stack(algorithm: str, tmp_path: Path) -> None:
    action = matrix.action_spaces(algorithm)[0]
    env = DummyVecEnv([lambda: matrix.environment(algorithm, "Box", action)])
    model = matrix.make(algorithm, VecFrameStack(env, 3))
    assert model.observation_space.shape == (9,)
    check(model, tmp_path)


@pytest.mark.parametrize("algorithm", names("VecNormalize"))
def test_vecnormalize(algorithm: str, tmp_path: Path) -> None:
    action = matrix.action_spaces(algorithm)[0]
    env = DummyVecEnv([lambda: matrix.environment(algorithm, "Box", action)])
    check(matrix.make(algorithm, VecNormalize(env)), tmp_path)


def value_networks(model: Any) -> dict[str, nn.Module]:
    """Networks that judge: critics and their targets, or the value network."""
    policy = model.policy
    if not hasattr(policy, "critic") or policy.critic is None or hasattr(policy, "value_net"):
        return {"value": nn.ModuleList([policy.mlp_extractor.value_net, policy.value_net])}
    return {"critic": policy.critic, "target": policy.critic_target}


@pytest.mark.parametrize("algorithm", names("spiking_critic"))
@pytest.mark.parametrize("encoder", ["deterministic", "poisson"])
def test_spiking_critic(algorithm: str, encoder: str, tmp_path: Path) -> None:
    if encoder == "poisson" and algorithm not in matrix.REPLAY:
        return  # refused, see test_on_policy
    action = matrix.action_spaces(algorithm)[0]
    kwargs = {"spiking_critic": True, "encoder": encoder}
    env = matrix.environment(algorithm, "Box", action)
    model = matrix.make(algorithm, env, policy_kwargs=kwargs)
    before = {
        name: matrix.copies(dict(network.named_parameters()))
        for name, network in value_networks(model).items()
    }
    check(model, tmp_path)
    for name, network in value_networks(model).items():
        assert sum(isinstance(m, PopulationBody) for m in network.modules()) >= 1
        matrix.assert_moved(dict(network.named_parameters()), before[name])
