"""Batch normalization through Stable-Baselines3: who may have it, targets, files, recalibration."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from policies.actor import PopulationBody
from policies.kernels.choice import has_numba
from policies.recalibration import recalibrate
from sb3_spiking import load_popsan
from sb3_spiking.batch_norm import RecalibrationCallback, normed_body
from sb3_spiking.callbacks import SpikeMonitorCallback
from sb3_spiking.doctor import examine
from tests.sb3_spiking.envs import ACTION, DICT, TinyEnv
from tests.sb3_spiking.test_popsan import save, small_checkpoint

SMALL: dict[str, Any] = {"net_arch": [16, 16], "encoder_pop_size": 4, "decoder_pop_size": 4}


def make(algo: type[OffPolicyAlgorithm] = TD3, env: Any = "Pendulum-v1", **kwargs: Any) -> Any:
    settings: dict[str, Any] = {
        "learning_starts": 20, "batch_size": 16, "buffer_size": 2_000, "seed": 0, "device": "cpu",
    }  # fmt: skip
    policy_kwargs = {**SMALL, "batch_norm": True, **kwargs.pop("policy_kwargs", {})}
    policy = kwargs.pop("policy", "SpikingPopPolicy")
    return algo(policy, env, policy_kwargs=policy_kwargs, **{**settings, **kwargs})


def body_of(model: Any) -> PopulationBody:
    body = normed_body(model.policy)
    assert body is not None
    return body


@pytest.mark.parametrize("algo", [TD3, DDPG, SAC])
def test_trains_saves_and_acts(algo: type[OffPolicyAlgorithm], tmp_path: Path) -> None:
    model = make(algo)
    before = copy.deepcopy(body_of(model).mlp.state_dict())
    model.learn(60)
    for name, value in body_of(model).mlp.state_dict().items():
        assert not torch.equal(value, before[name]), name
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    actions = model.predict(obs, deterministic=True)[0]
    model.save(tmp_path / "model")
    loaded = algo.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], actions)
    if has_numba():
        events = model.policy.to_event_driven()
        np.testing.assert_array_equal(events.predict(obs)[0], actions)
    loaded.set_env(gym.make("Pendulum-v1"))
    loaded.learn(30, reset_num_timesteps=False)


def test_target_statistics_are_averaged_like_target_weights() -> None:
    model = make(tau=0.25, policy_delay=1, learning_starts=19)
    target = model.actor_target.mu.mlp.layers()[1]
    before = copy.deepcopy(target.state_dict())
    model.learn(20)  # one update
    assert model._n_updates == 1
    online = model.actor.mu.mlp.layers()[1].state_dict()
    for name in ("weight", "bias", "norm.gain", "norm.moving_mean", "norm.moving_var"):
        expected = 0.75 * before[name] + 0.25 * online[name]
        assert not torch.equal(before[name], online[name]), name
        torch.testing.assert_close(target.state_dict()[name], expected, rtol=1e-5, atol=1e-7)


def test_targets_of_sac_leave_the_statistics() -> None:
    model = make(SAC)
    model.learn(30)
    model.policy.set_training_mode(True)
    before = copy.deepcopy(body_of(model).mlp.state_dict())
    with torch.no_grad():
        model.actor.action_log_prob(torch.randn(8, 3))
    for name, value in body_of(model).mlp.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("algo", [TD3, SAC])
def test_recalibration_uses_the_buffer(algo: type[OffPolicyAlgorithm]) -> None:
    model = make(algo, batch_size=8)
    seen: list[dict[str, torch.Tensor]] = []
    callback = RecalibrationCallback(every=40, batches=30, batch_size=64)

    class Witness(RecalibrationCallback):
        def _recalibrate(self, model: Any, buffer: Any) -> None:
            super()._recalibrate(model, buffer)
            seen.append(copy.deepcopy(body_of(model).state_dict()))
            exact = copy.deepcopy(body_of(model))
            obs = buffer.observations[: buffer.pos].reshape(-1, 3)
            recalibrate(exact, [torch.as_tensor(obs)])
            for ours, theirs in zip(body_of(model).mlp.layers(), exact.mlp.layers(), strict=True):
                assert ours.norm is not None
                assert theirs.norm is not None
                error = (ours.norm.moving_mean - theirs.norm.moving_mean).square().sum()
                assert error < 0.01 * theirs.norm.moving_var.sum()

    witness = Witness(callback.every, callback.batches, callback.batch_size)
    model.learn(100, callback=witness)
    assert len(seen) == 2  # at 40 and 80
    model.learn(30, callback=witness, reset_num_timesteps=False)
    assert len(seen) == 3  # at 120


def test_recalibration_lets_others_pass_and_names_what_is_missing() -> None:
    RecalibrationCallback()  # the defaults are sound
    with pytest.raises(ValueError, match="batches must be at least 1"):
        RecalibrationCallback(batches=0)
    make(policy_kwargs={"batch_norm": False}).learn(25, callback=RecalibrationCallback(every=5))
    dense = TD3("MlpPolicy", "Pendulum-v1", learning_starts=10, device="cpu")
    dense.learn(15, callback=RecalibrationCallback(every=5))
    PPO("SpikingPopPolicy", "Pendulum-v1", policy_kwargs=SMALL, n_steps=8, batch_size=8).learn(
        8, callback=RecalibrationCallback(every=5)
    )


def test_dict_observations() -> None:
    model = make(env=TinyEnv(DICT, ACTION), policy="SpikingPopMultiInputPolicy")
    model.learn(40, callback=RecalibrationCallback(every=30, batches=2, batch_size=8))


@pytest.mark.parametrize("algo", [PPO, A2C])
def test_on_policy_algorithms_refuse(algo: Any) -> None:
    with pytest.raises(ValueError, match="batch_norm=True: an update would normalize by its batch"):
        algo("SpikingPopPolicy", "Pendulum-v1", policy_kwargs={"batch_norm": True})


def test_value_networks_have_none() -> None:
    with pytest.raises(ValueError, match="batch_norm=True: there is no actor"):
        DQN("SpikingPopPolicy", "CartPole-v1", policy_kwargs={"batch_norm": True})
    model = make(policy_kwargs={"spiking_critic": True})
    assert not any("norm.gain" in name for name in model.critic.state_dict())
    model.learn(25)


def test_contrib() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    for algo, env in ((contrib.TRPO, "Pendulum-v1"), (contrib.QRDQN, "CartPole-v1")):
        with pytest.raises(ValueError, match="batch_norm=True"):
            algo("SpikingPopPolicy", env, policy_kwargs={"batch_norm": True})
    with pytest.raises(ValueError, match="batch_norm=True: ARS"):
        contrib.ARS("SpikingPopPolicy", "CartPole-v1", policy_kwargs={"batch_norm": True})
    model = make(contrib.TQC)
    model.learn(30, callback=RecalibrationCallback(every=25, batches=2, batch_size=8))
    assert body_of(model).config.batch_norm


@pytest.mark.parametrize("batch_norm", [True, False])
def test_crossq_keeps_its_own_keyword(batch_norm: bool, tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = make(contrib.CrossQ, policy_kwargs={"batch_norm": batch_norm})
    model.save(tmp_path / "model")
    for one in (model, contrib.CrossQ.load(tmp_path / "model", device="cpu")):
        norms = [m for m in one.critic.modules() if "BatchRenorm" in type(m).__name__]
        assert bool(norms) is batch_norm
        assert normed_body(one.policy) is None
        assert one.policy._get_constructor_parameters()["batch_norm"] is batch_norm
    model.learn(25)


def test_monitor_and_doctor() -> None:
    model = make()
    monitor = SpikeMonitorCallback(every=50, samples=16)
    model.learn(120, callback=monitor)
    assert monitor.last is not None
    assert len(monitor.last.layers) == 3
    before = copy.deepcopy(body_of(model).state_dict())
    examine(model.policy, model.get_env(), steps=60)
    for name, value in body_of(model).state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("algo", "kwargs", "expected"),
    [
        (TD3, {}, False),
        (TD3, {"batch_norm": True}, True),
        (DDPG, {"batch_norm": True}, True),
        (SAC, {"batch_norm": True}, True),
        (PPO, {}, False),
    ],
)
def test_where_it_is(algo: Any, kwargs: dict[str, Any], expected: bool) -> None:
    small = {"n_steps": 8, "batch_size": 8} if algo is PPO else {}
    model = algo("SpikingPopPolicy", "Pendulum-v1", policy_kwargs={**SMALL, **kwargs}, **small)
    assert (normed_body(model.policy) is not None) is expected
    # The name that SB3 keeps of it builds the same one.
    rebuilt = type(model.policy)(**model.policy._get_constructor_parameters())
    assert (normed_body(rebuilt) is not None) is expected


def test_parameters_without_norms_are_refused(tmp_path: Path) -> None:
    model = make(policy_kwargs={"batch_norm": False})
    model.save(tmp_path / "model")
    kwargs = {"policy_kwargs": {**model.policy_kwargs, "batch_norm": True}}
    with pytest.raises(RuntimeError, match=r"without batch normalization.*batch_norm=False"):
        TD3.load(tmp_path / "model", device="cpu", custom_objects=kwargs)
    loaded = TD3.load(tmp_path / "model", device="cpu")
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs)[0], model.predict(obs)[0])


def test_the_other_way_round_is_refused_too(tmp_path: Path) -> None:
    model = make(policy_kwargs={"batch_norm": True})
    model.save(tmp_path / "model")
    kwargs = {"policy_kwargs": {**model.policy_kwargs, "batch_norm": False}}
    with pytest.raises(RuntimeError, match=r"of a policy with batch norm.*batch_norm=True"):
        TD3.load(tmp_path / "model", device="cpu", custom_objects=kwargs)


def test_batch_norm_is_a_yes_or_no() -> None:
    with pytest.raises(TypeError, match="batch_norm must be True or False, got 1"):
        make(policy_kwargs={"batch_norm": 1})


def test_published_weights_have_no_norms(tmp_path: Path) -> None:
    path = save(tmp_path / "popsan.npz", small_checkpoint())
    with pytest.raises(ValueError, match="'batch_norm'"):
        load_popsan(path, "Pendulum-v1", policy_kwargs={"batch_norm": True})
    with pytest.raises(ValueError, match="'recipe'"):
        load_popsan(path, "Pendulum-v1", policy_kwargs={"recipe": "counting"})
