"""What SB3 users put around an algorithm, for each algorithm that has it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from policies.actor import PopulationBody
from policies.value import ValueNetwork
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


def spiking_critic(algorithm: str, **kwargs: Any) -> Any:
    env = matrix.environment(algorithm, "Box", matrix.action_spaces(algorithm)[0])
    return matrix.make(algorithm, env, policy_kwargs={"spiking_critic": True, **kwargs})


@pytest.mark.parametrize("algorithm", names("spiking_critic"))
def test_spiking_critic(algorithm: str, tmp_path: Path) -> None:
    model = spiking_critic(algorithm)
    before = {
        name: matrix.copies(dict(network.named_parameters()))
        for name, network in value_networks(model).items()
    }
    check(model, tmp_path)
    for name, network in value_networks(model).items():
        assert any(isinstance(module, PopulationBody) for module in network.modules())
        matrix.assert_moved(dict(network.named_parameters()), before[name])


@pytest.mark.parametrize("algorithm", matrix.REPLAY)
def test_spiking_critics_give_as_many_values_and_never_draw(algorithm: str) -> None:
    model = spiking_critic(algorithm, encoder="poisson", value_gain=3.0)
    obs, actions = torch.randn(7, 3), torch.rand(7, 2)
    values = model.critic(obs, actions)
    again = model.critic(obs, actions)
    if algorithm == "TQC":
        assert values.shape == (7, 2, 5)
    else:
        assert [v.shape for v in values] == [(7, 1)] * (1 if algorithm == "DDPG" else 2)
    for value, same in zip(values, again, strict=True):
        assert torch.equal(value, same)
    for network in model.critic.q_networks:
        assert isinstance(network, ValueNetwork)
        assert network.readout.gain == 3.0


@pytest.mark.parametrize("algorithm", matrix.REPLAY)
def test_critics_learn_statistics_from_replayed_actions_only(algorithm: str) -> None:
    model = spiking_critic(algorithm)
    model.learn(24)
    assert model._n_updates > 0
    for network in model.critic.q_networks:
        assert network.normalizer.running_count == model._n_updates * model.batch_size
        assert not network.normalizer.frozen


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO"])
def test_spiking_value_networks_have_their_own_layers(algorithm: str) -> None:
    arch = {"pi": [9], "vf": [11, 7]}
    model = spiking_critic(algorithm, net_arch=arch, value_gain=3.0, value_pop_size=20)
    network = model.policy.mlp_extractor.value_net
    assert network.config.hidden_sizes == (11, 7)
    assert network.config.defer_normalizer
    assert model.policy.mlp_extractor.policy_net.config.hidden_sizes == (9,)
    assert model.policy.value_net.gain == 3.0
    assert model.policy.value_net.level.in_features == 20
    # ortho_init is for dense layers: it would set biases to 0.
    assert all(linear.bias.abs().max() > 0 for linear in network.mlp.linears)
