"""A proxy target: what it learns, who asks it, and that it is saved."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import sb3_spiking
from sb3_spiking.mixin import in_mode
from sb3_spiking.proxy import ProxyTarget

SMALL = {"net_arch": [16, 16], "proxy_arch": [32]}


def model(algorithm: Any = TD3, **policy_kwargs: Any) -> Any:
    kwargs = {**SMALL, "proxy_target": True, **policy_kwargs}
    return algorithm(
        "SpikingPopPolicy", "Pendulum-v1", learning_starts=50, seed=0, policy_kwargs=kwargs
    )


def test_one_update_by_hand() -> None:
    """One linear unit, Adam's first step: each weight moves by the learning rate."""
    proxy: Any = ProxyTarget(1, 1, hidden=[], steps=1, learning_rate=0.1, squash=False)
    with torch.no_grad():
        proxy.network[0].weight.fill_(1.0)
        proxy.network[0].bias.fill_(0.0)
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    proxy.follow(x, y)
    assert proxy.error == pytest.approx(1.0)  # (1 - 0)^2 and (2 - 1)^2
    assert proxy.network[0].weight.item() == pytest.approx(0.9)
    assert proxy.network[0].bias.item() == pytest.approx(-0.1)


def test_follows_a_function() -> None:
    torch.manual_seed(0)
    proxy = ProxyTarget(2, 1, hidden=[64], steps=3, learning_rate=3e-3)
    for _ in range(200):
        x = torch.rand(64, 2) * 2 - 1
        proxy.follow(x, torch.tanh(x.sum(dim=1, keepdim=True)))
    assert proxy.error < 1e-3


def test_learns_nothing_from_a_gradient_through_its_answers() -> None:
    """The actor's loss does not reach the proxy, nor the proxy's the actor."""
    built = model()
    built.learn(60)
    actor = built.policy.actor
    actor.set_training_mode(True)
    learned = [p for p in actor.parameters() if p.requires_grad]  # norms keep statistics, too
    before = [p.clone() for p in learned]
    obs = torch.randn(8, 3)
    actor.optimizer.zero_grad()
    actions = actor(obs)
    assert all(p.grad is None for p in actor.parameters())
    actions.sum().backward()
    assert all(p.grad is not None for p in learned)
    assert all(torch.equal(a, b) for a, b in zip(before, learned, strict=True))


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_target_answers_by_the_proxy(algorithm: type[OffPolicyAlgorithm]) -> None:
    built = model(algorithm)
    built.learn(80)
    policy: Any = built.policy
    obs = torch.randn(5, 3)
    seen = policy.actor.mu.normalizer(obs)
    assert torch.equal(policy.actor_target(obs), policy.proxy(seen))
    assert not torch.equal(policy.actor_target(obs), policy.actor_target.mu(obs))
    assert policy.proxy.error < 1.0


@pytest.mark.parametrize("algorithm", [SAC, TQC])
def test_gaussian_targets_come_from_the_proxy(algorithm: type[OffPolicyAlgorithm]) -> None:
    built = model(algorithm)
    built.learn(80)
    policy: Any = built.policy
    actor = policy.actor
    obs = torch.randn(5, 3)
    actor.set_training_mode(True)
    expected = policy.proxy(actor.latent_pi.normalizer(obs))
    torch.manual_seed(0)
    with torch.no_grad():
        actions, _ = actor.action_log_prob(obs)
        torch.manual_seed(0)
        noise = torch.distributions.Normal(0.0, 1.0).sample((5, 1))
    mean, log_std = expected[:, :1], expected[:, 1:].clamp(-20, 2)
    torch.testing.assert_close(actions, torch.tanh(mean + log_std.exp() * noise))
    # Asked for an action it answers by spikes, whatever mode `learn` has left it in.
    with torch.no_grad():
        own, _, _ = actor.get_action_dist_params(obs, deterministic=True)
    assert not torch.allclose(mean, own)
    action, _ = policy.predict(obs.numpy(), deterministic=True)
    policy.set_training_mode(True)
    with torch.no_grad():
        torch.testing.assert_close(2.0 * actor(obs, deterministic=True), torch.as_tensor(action))


def test_not_asked_when_acting() -> None:
    built = model()
    built.learn(60)
    obs, _ = built.env.envs[0].reset(seed=0)
    action, _ = built.predict(obs, deterministic=True)
    with torch.no_grad():
        torch.nn.init.constant_(built.policy.proxy.network[-2].bias, 5.0)
    again, _ = built.predict(obs, deterministic=True)
    assert (action == again).all()


@pytest.mark.parametrize("algorithm", [TD3, SAC])
def test_saved_with_its_optimizer(algorithm: Any, tmp_path: Path) -> None:
    built = model(algorithm)
    built.learn(80)
    built.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=built.env)
    mine, other = built.policy.state_dict(), loaded.policy.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    state = loaded.policy.proxy.get_extra_state()
    assert len(state) == 1 + 2 * sum(p.numel() for p in loaded.policy.proxy.parameters())
    x, y = torch.randn(4, 3), torch.zeros(4, 1 if algorithm is TD3 else 2)
    for proxy in (built.policy.proxy, loaded.policy.proxy):
        proxy.follow(x, y)
    assert torch.equal(built.policy.proxy(x), loaded.policy.proxy(x))
    loaded.learn(20, reset_num_timesteps=False)


def test_an_untrained_proxy_is_saved_too() -> None:
    built = model()
    other = model()
    other.policy.load_state_dict(built.policy.state_dict())
    assert torch.equal(built.policy.actor_target(torch.ones(1, 3)),
                       other.policy.actor_target(torch.ones(1, 3)))  # fmt: skip


def test_copies_have_their_own() -> None:
    built = model()
    built.learn(60)
    policy = copy.deepcopy(built.policy)
    assert policy.actor._taught[0] is policy.proxy
    assert policy.actor_target._asked[0] is policy.proxy
    assert policy.proxy is not built.policy.proxy
    x = torch.randn(4, 3)
    before = built.policy.proxy(x)
    policy.proxy.follow(x, torch.zeros(4, 1))
    assert torch.equal(built.policy.proxy(x), before)
    assert not torch.equal(policy.proxy(x), before)


def test_off_is_as_ever() -> None:
    plain = TD3("SpikingPopPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16]})
    assert not any("proxy" in name for name in plain.policy.state_dict())


@pytest.mark.parametrize("algorithm", [PPO, CrossQ])
def test_refused_without_actor_targets(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="proxy_target=True is for algorithms that ask an actor"):
        algorithm("SpikingPopPolicy", "Pendulum-v1", policy_kwargs={"proxy_target": True})


def test_refused_with_gsde() -> None:
    with pytest.raises(ValueError, match="use_sde=True"):
        SAC("SpikingPopPolicy", "Pendulum-v1", use_sde=True, policy_kwargs={"proxy_target": True})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("proxy_target", 1, TypeError),
        ("proxy_steps", 0, ValueError),
        ("proxy_lr", 0.0, ValueError),
        ("proxy_arch", [0], ValueError),
        ("proxy_arch", 512, TypeError),
        ("proxy_arch", "512", TypeError),
    ],
)
def test_refused_values(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        model(**{option: value})


@pytest.mark.parametrize(
    ("algorithm", "stock"),
    [
        (sb3_spiking.SpikingTD3, TD3),
        (sb3_spiking.SpikingDDPG, DDPG),
        (sb3_spiking.SpikingSAC, SAC),
    ],
)
def test_snn_aware_algorithms(algorithm: Any, stock: Any, tmp_path: Path) -> None:
    built = algorithm(env="Pendulum-v1", learning_starts=50, policy_kwargs=SMALL)
    built.learn(80)
    assert built.policy.proxy.error < 1.0
    assert built.policy.proxy.network[0].out_features == 32
    built.save(tmp_path / "model")
    obs, _ = built.env.envs[0].reset(seed=0)
    action, _ = built.predict(obs, deterministic=True)
    for kind in (algorithm, stock):
        loaded = kind.load(tmp_path / "model", env=built.env)
        assert (loaded.predict(obs, deterministic=True)[0] == action).all()
        loaded.learn(10, reset_num_timesteps=False)
    off = algorithm(env="Pendulum-v1", policy_kwargs={**SMALL, "proxy_target": False})
    assert not hasattr(off.policy, "proxy")


def test_snn_aware_refuses_dense_names() -> None:
    with pytest.raises(ValueError, match="use 'SpikingPopPolicy', or TD3"):
        sb3_spiking.SpikingTD3("MlpPolicy", "Pendulum-v1")


def test_snn_aware_refuses_what_is_not_spiking() -> None:
    with pytest.raises(ValueError, match="got TD3Policy; use 'SpikingPopPolicy', or TD3"):
        sb3_spiking.SpikingTD3(TD3.policy_aliases["MlpPolicy"], "Pendulum-v1")
    with pytest.raises(TypeError, match="needs an environment"):
        sb3_spiking.SpikingTD3()


def test_a_plain_file_goes_on_plainly_and_says_so(tmp_path: Path) -> None:
    TD3("SpikingPopPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16]}).save(tmp_path / "td3")
    with pytest.warns(UserWarning, match="saved by TD3 without a proxy target"):
        sb3_spiking.SpikingTD3.load(tmp_path / "td3")


def test_proxies_of_other_sizes_are_told_apart() -> None:
    built, other = model(), model(proxy_arch=[24])
    built.learn(60)
    with pytest.raises(RuntimeError, match=r"size mismatch for proxy\.network\.0\.weight"):
        other.policy.load_state_dict(built.policy.state_dict())


@pytest.mark.parametrize("algorithm", [TD3, SAC])
def test_acting_switches_no_modes(algorithm: Any) -> None:
    """What stays in training mode would make each `predict` walk through the policy."""
    built = model(algorithm)
    built.learn(60)
    built.policy.set_training_mode(False)
    assert in_mode(built.policy, False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("load_on", ["cpu", "cuda"])
def test_saved_on_a_gpu(load_on: str, tmp_path: Path) -> None:
    built = TD3(
        "SpikingPopPolicy", "Pendulum-v1", learning_starts=50, device="cuda",
        policy_kwargs={**SMALL, "proxy_target": True},
    )  # fmt: skip
    built.learn(80)
    built.save(tmp_path / "model")
    loaded = TD3.load(tmp_path / "model", env=built.env, device=load_on)
    loaded.learn(80, reset_num_timesteps=False)


def test_the_optimizers_state_is_the_cpu_s() -> None:
    """Fused Adam keeps its steps on the parameters' device, and files are read anywhere."""
    proxy = ProxyTarget(1, 1, hidden=[2], steps=1)
    proxy.follow(torch.ones(2, 1), torch.zeros(2, 1))
    assert proxy.get_extra_state().device.type == "cpu"
    assert proxy.get_extra_state()[0] == 1.0
