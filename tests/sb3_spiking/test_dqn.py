import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN

from policies.actor import PopulationActor
from sb3_spiking.dqn import SpikingDQNPolicy
from tests.sb3_spiking.envs import BOX, DICT, IMAGE, OBSERVATIONS, TinyEnv
from tests.sb3_spiking.test_td3 import SMALL

OBS = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
DISCRETE = spaces.Discrete(3)


def make(env: Any = "CartPole-v1", policy: str = "SpikingPopPolicy", **kwargs: Any) -> DQN:
    settings: dict[str, Any] = {
        "learning_starts": 20, "train_freq": 1, "batch_size": 16, "buffer_size": 500, "seed": 0,
        "target_update_interval": 10, "learning_rate": 1e-3, "device": "cpu",
    }  # fmt: skip
    policy_kwargs = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    return DQN(policy, env, policy_kwargs=policy_kwargs, **{**settings, **kwargs})


def assert_learns(model: DQN, steps: int = 60) -> None:
    before = copy.deepcopy(model.q_net.state_dict())
    model.learn(steps)
    for name, value in model.q_net.state_dict().items():
        assert torch.isfinite(value).all(), name
        if "features_extractor" not in name and not name.endswith("mean_error"):
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"net_arch": []},
        {"encoder": "poisson"},
        {"encoder": "analog", "decoder": "membrane", "neuron": "lif"},
    ],
    ids=str,
)
def test_learns_saves_and_loads(options: dict[str, Any], tmp_path: Path) -> None:
    model = make(policy_kwargs=options)
    assert_learns(model, 80)
    model.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model")
    obs = torch.as_tensor(OBS)
    for network in (model.q_net, loaded.q_net):
        network.set_training_mode(False)
    torch.manual_seed(0)
    expected = model.q_net(obs)
    torch.manual_seed(0)
    assert torch.equal(expected, loaded.q_net(obs))
    action, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(action, loaded.predict(OBS, deterministic=True)[0])
    model.policy.save(str(tmp_path / "policy"))
    policy = SpikingDQNPolicy.load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_array_equal(action, policy.predict(OBS, deterministic=True)[0])


def test_the_target_follows_values_and_statistics() -> None:
    model = make(target_update_interval=1)
    model.learn(40)
    model._on_step()  # SB3 updates the target at the next environment step
    online, target = model.q_net.q_net, model.q_net_target.q_net
    assert isinstance(online, PopulationActor)
    assert online.normalizer is not None
    assert online.normalizer.running_count > 0
    for name, value in online.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


def test_values_are_not_squashed_and_sizes_are_dqns() -> None:
    model = DQN("SpikingPopPolicy", "CartPole-v1", buffer_size=10)
    network = model.q_net.q_net
    assert isinstance(network, PopulationActor)
    assert network.config.hidden_sizes == (64, 64)
    with torch.no_grad():
        network.decoder.bias.fill_(50.0)
        assert (model.q_net(torch.as_tensor(OBS)) > 40).all()


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_spaces(name: str) -> None:
    make(TinyEnv(OBSERVATIONS[name], DISCRETE)).learn(30)


def test_dict_and_image_observations() -> None:
    assert_learns(make(TinyEnv(DICT, DISCRETE), "SpikingPopMultiInputPolicy"))
    make(TinyEnv(IMAGE, DISCRETE), "SpikingPopCnnPolicy", buffer_size=60).learn(24)
    with pytest.raises(ValueError, match="use 'SpikingPopMultiInputPolicy'"):
        make(TinyEnv(DICT, DISCRETE))


def test_rate_is_scaled_also_in_copies() -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.1})
    for policy in (model.policy, copy.deepcopy(model.policy)):
        before = [p.detach().clone() for p in policy.q_net.parameters()]
        for p in policy.q_net.parameters():
            p.grad = torch.ones_like(p)
        policy.optimizer.param_groups[0]["lr"] = 0.01
        policy.optimizer.step()
        changes = zip(policy.q_net.parameters(), before, strict=True)
        assert max((p - b).abs().max().item() for p, b in changes) == pytest.approx(1e-3, rel=1e-2)


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(AssertionError, match="Discrete"):  # SB3's own
        make(TinyEnv(BOX, BOX))
