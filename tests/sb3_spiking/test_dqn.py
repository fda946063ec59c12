import copy
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN

from policies.value import ValueNetwork
from tests.sb3_spiking import matrix
from tests.sb3_spiking.envs import FaultyEnv, TinyEnv

OBS = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
ALGORITHMS = ["DQN", "QRDQN"]


def make(algorithm: str, **kwargs: Any) -> Any:
    return matrix.make(algorithm, matrix.environment(algorithm, "Box", "Discrete"), **kwargs)


def network(model: Any, suffix: str = "") -> ValueNetwork:
    policy = model.policy
    if isinstance(model, QRDQN):
        found = getattr(policy, f"quantile_net{suffix}").quantile_net
    else:
        found = getattr(policy, f"q_net{suffix}").q_net
    assert isinstance(found, ValueNetwork)
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "options",
    [
        {"net_arch": []},
        {"encoder": "poisson"},
        {"encoder": "analog", "decoder": "membrane", "neuron": "lif"},
        {"normalize_obs": False, "value_gain": 1.0},
    ],
    ids=str,
)
def test_policy_files(algorithm: str, options: dict[str, Any], tmp_path: Any) -> None:
    model = make(algorithm, policy_kwargs=options)
    matrix.learn(model)
    action, _ = model.predict(OBS, deterministic=True)
    model.policy.save(str(tmp_path / "policy"))
    policy = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_array_equal(action, policy.predict(OBS, deterministic=True)[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_target_follows_values_and_statistics(algorithm: str) -> None:
    model = make(algorithm, target_update_interval=1)
    model.learn(24)
    model._on_step()  # SB3 updates the target at the next environment step
    online, target = network(model), network(model, "_target")
    assert online.normalizer is not None
    assert online.normalizer.running_count > 0
    for name, value in online.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_actions_have_the_largest_value(algorithm: str) -> None:
    model = make(algorithm)
    model.learn(24)
    action, _ = model.predict(OBS, deterministic=True)
    with torch.no_grad():
        values = network(model)(torch.as_tensor(OBS))
    if algorithm == "QRDQN":
        assert values.shape == (300, 15)
        values = values.view(300, 5, 3).mean(dim=1)
    np.testing.assert_array_equal(action, values.argmax(dim=1).numpy())


def test_poisson_predicts_deterministically_when_asked() -> None:
    model = make("DQN", policy_kwargs={"encoder": "poisson"})
    first, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(first, model.predict(OBS, deterministic=True)[0])
    with torch.no_grad():
        obs = torch.as_tensor(OBS)
        assert not torch.equal(model.q_net(obs), model.q_net(obs))


def test_sizes_are_dqns() -> None:
    model = DQN("SpikingPopPolicy", "CartPole-v1", buffer_size=10)
    assert network(model).config.hidden_sizes == (64, 64)
    assert network(model).config.decoder.pop_size == 128
    assert network(model).config.encoder.pop_size == 15
    assert network(model).readout.gain == 10.0
    model = DQN(
        "SpikingPopPolicy", "CartPole-v1", buffer_size=10, policy_kwargs={"value_gain": 2.0}
    )
    assert network(model).readout.gain == 2.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rate_is_scaled_also_in_copies(algorithm: str) -> None:
    model = make(algorithm, policy_kwargs={"actor_lr_scale": 0.1})
    for policy in (model.policy, copy.deepcopy(model.policy)):
        parameters = policy.optimizer.param_groups[0]["params"]
        before = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.grad = torch.ones_like(p)
        policy.optimizer.param_groups[0]["lr"] = 0.01
        policy.optimizer.step()
        changes = zip(parameters, before, strict=True)
        assert max((p - b).abs().max().item() for p, b in changes) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_faults_are_named(algorithm: str) -> None:
    class Faulty(FaultyEnv):
        def __init__(self) -> None:
            super().__init__(np.nan, 5)
            self.action_space = matrix.ACTIONS["Discrete"]

    model = matrix.make(algorithm, Faulty())
    with pytest.raises(ValueError, match=r"observations must be finite.*feature 1"):
        model.learn(100)
    assert all(torch.isfinite(v).all() for v in model.policy.state_dict().values())
    with torch.no_grad():
        network(model).readout.level.weight.fill_(np.nan)
    with pytest.raises(ValueError, match=r"output is NaN.*readout.level.weight"):
        model.predict(OBS, deterministic=True)


def test_continuous_actions_are_refused() -> None:
    with pytest.raises(AssertionError, match="Discrete"):  # SB3's own
        matrix.make("DQN", TinyEnv(matrix.OBSERVATIONS["Box"], matrix.ACTIONS["Box"]))
