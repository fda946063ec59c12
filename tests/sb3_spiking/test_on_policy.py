import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policies.actor import PopulationBody
from policies.population import PopulationReadout
from sb3_spiking.on_policy import SpikingActorCriticPolicy
from tests.common import run_python
from tests.sb3_spiking.envs import (
    ACTION,
    ACTIONS,
    BOX,
    DICT,
    IMAGE,
    OBSERVATIONS,
    FaultyEnv,
    TinyEnv,
)
from tests.sb3_spiking.test_td3 import SMALL

OBS = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
DISCRETE: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "multi_binary": spaces.MultiBinary(4),
}


def make(
    algo: type[PPO] | type[A2C] = PPO,
    env: Any = "Pendulum-v1",
    policy: str = "SpikingPopPolicy",
    **kwargs: Any,
) -> Any:
    settings: dict[str, Any] = {"n_steps": 32, "seed": 0, "device": "cpu"}
    if algo is PPO:
        settings |= {"batch_size": 16, "n_epochs": 2}
    policy_kwargs = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    return algo(policy, env, policy_kwargs=policy_kwargs, **{**settings, **kwargs})


def body(model: Any) -> PopulationBody:
    network = model.policy.mlp_extractor.policy_net
    assert isinstance(network, PopulationBody)
    return network


def assert_learns(model: Any, steps: int = 96) -> None:
    """Every tensor of the policy moves, but for what SB3 leaves alone, and stays finite."""
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(steps)
    for name, value in model.policy.state_dict().items():
        assert torch.isfinite(value).all(), name
        if not any(part in name for part in ("features_extractor", "pending", "error", "fixed")):
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("algo", [PPO, A2C])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"net_arch": []},
        {"net_arch": {"pi": [8], "vf": [12]}},
        {"ortho_init": False},
        {"encoder": "analog", "decoder": "membrane", "neuron": "lif"},
        {"share_features_extractor": False},
    ],
    ids=str,
)
def test_learns_saves_and_loads(algo: Any, options: dict[str, Any], tmp_path: Path) -> None:
    model = make(algo, policy_kwargs=options)
    assert_learns(model)
    model.save(tmp_path / "model")
    loaded = algo.load(tmp_path / "model")
    expected, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(expected, loaded.predict(OBS, deterministic=True)[0])
    model.policy.save(str(tmp_path / "policy"))
    policy = SpikingActorCriticPolicy.load(str(tmp_path / "policy"), device="cpu")
    if options.get("share_features_extractor", True):  # SB3 does not save this keyword
        np.testing.assert_array_equal(expected, policy.predict(OBS, deterministic=True)[0])


@pytest.mark.parametrize("algo", [PPO, A2C])
def test_gsde(algo: Any, tmp_path: Path) -> None:
    model = make(algo, use_sde=True, policy_kwargs={"log_std_init": -1.0, "full_std": False})
    assert_learns(model)
    assert model.policy.log_std.shape == (SMALL["decoder_pop_size"], 1)
    model.save(tmp_path / "model")
    loaded = algo.load(tmp_path / "model")
    expected, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(expected, loaded.predict(OBS, deterministic=True)[0])


def test_the_ratio_starts_at_one_in_every_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first minibatch of each update the new log-probabilities are the rollout's."""
    model = make(env=make_vec_env("Pendulum-v1", 2, seed=0), batch_size=64, n_epochs=1, n_steps=32)
    seen: list[float] = []
    evaluate = SpikingActorCriticPolicy.evaluate_actions

    def watch(self: Any, obs: Any, actions: Any) -> Any:
        values, log_prob, entropy = evaluate(self, obs, actions)
        # One batch holds the whole rollout, in another order.
        expected = np.sort(model.rollout_buffer.log_probs.flatten())
        seen.append(float(np.abs(np.sort(log_prob.detach().numpy()) - expected).max()))
        return values, log_prob, entropy

    monkeypatch.setattr(SpikingActorCriticPolicy, "evaluate_actions", watch)
    model.learn(64 * 5)
    assert len(seen) == 5
    assert max(seen) < 1e-5


def test_the_normalizer_learns_between_updates_only() -> None:
    model = make()
    normalizer = body(model).normalizer
    assert normalizer is not None
    model.learn(32)
    assert normalizer.running_count.item() == 0
    assert normalizer.get_buffer("pending_count").item() == 32 * 2  # two epochs
    model.policy.set_training_mode(False)
    assert normalizer.running_count.item() == 64
    observations = torch.as_tensor(model.rollout_buffer.observations).view(-1, 3)
    torch.testing.assert_close(normalizer.running_mean, observations.mean(0), rtol=1e-4, atol=1e-5)
    model.policy.set_training_mode(False)
    assert normalizer.running_count.item() == 64


def test_parameters_set_into_a_used_model_bring_their_pending_statistics(tmp_path: Path) -> None:
    model, used = make(), make(seed=1)
    model.learn(32)
    used.learn(32)
    used.predict(OBS)
    model.save(tmp_path / "model")
    used.set_parameters(str(tmp_path / "model"))
    expected, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(expected, used.predict(OBS, deterministic=True)[0])


def test_poisson_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"draws anew.*use 'deterministic' or 'analog'"):
        make(policy_kwargs={"encoder": "poisson"})


@pytest.mark.parametrize("name", [*ACTIONS, *DISCRETE])
def test_action_spaces(name: str) -> None:
    space = (ACTIONS | DISCRETE)[name]
    model = make(A2C, TinyEnv(BOX, space))
    assert_learns(model)
    action, _ = model.predict(OBS[0])
    assert space.contains(action.astype(space.dtype))


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_spaces(name: str) -> None:
    make(PPO, TinyEnv(OBSERVATIONS[name], ACTION)).learn(64)


def test_dict_and_image_observations() -> None:
    assert_learns(make(PPO, TinyEnv(DICT, ACTION), "SpikingPopMultiInputPolicy"))
    model = make(A2C, TinyEnv(IMAGE, ACTION), "SpikingPopCnnPolicy", n_steps=4)
    model.learn(12)
    assert body(model).encoder.obs_dim == 512
    with pytest.raises(ValueError, match="use 'SpikingPopMultiInputPolicy'"):
        make(PPO, TinyEnv(DICT, ACTION))


def test_under_vecnormalize() -> None:
    assert_learns(make(PPO, VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))))


def test_spiking_layers_keep_their_own_initialization() -> None:
    model = make(policy_kwargs={"net_arch": [64, 64]})
    for linear in body(model).mlp.linears:
        assert isinstance(linear, torch.nn.Linear)
        assert linear.bias.abs().max() > 0
    # The dense value network is orthogonal, as ortho_init says.
    assert all(
        m.bias.abs().max() == 0 for m in model.policy.mlp_extractor.value_net if hasattr(m, "bias")
    )
    readout = model.policy.action_net
    assert isinstance(readout, PopulationReadout)
    assert readout.weight.abs().max() < 0.01
    rates = body(make(policy_kwargs={"net_arch": [64, 64]})).eval()(torch.as_tensor(OBS))
    assert rates.mean() > 0.05


def test_only_the_spiking_parameters_are_scaled() -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.1})
    for policy in (model.policy, copy.deepcopy(model.policy)):
        spiking = {id(p) for p in policy.mlp_extractor.policy_net.parameters()}
        spiking |= {id(p) for p in policy.action_net.parameters()}
        assert len(list(policy.parameters())) == sum(
            len(group["params"]) for group in policy.optimizer.param_groups
        )
        before = [p.detach().clone() for p in policy.parameters()]
        for p in policy.parameters():
            p.grad = torch.ones_like(p)
        for group in policy.optimizer.param_groups:
            group["lr"] = 0.01
        policy.optimizer.step()
        for p, old in zip(policy.parameters(), before, strict=True):
            change = (p - old).abs().max().item()
            assert change == pytest.approx(0.001 if id(p) in spiking else 0.01, rel=2e-2)


def test_names_tell_the_actor_from_the_values() -> None:
    """TRPO leaves out of its trust region what has "value" in its name."""
    names = [name for name, _ in make().policy.named_parameters()]
    values = [name for name in names if "value" in name]
    assert values
    assert all("value_net" in name for name in values)
    assert sum(name.startswith("mlp_extractor.policy_net") for name in names) == 8


def test_second_order_gradients_block_by_block() -> None:
    """Hessian-vector products of the KL, as TRPO takes them, against finite differences.

    With smooth spikes in float64 the first derivative is exact, so its finite difference along a
    vector that lives in one layer only must be that layer's column of the Hessian.
    """
    from policies.neurons import CurrentLIF
    from policies.surrogate import Surrogate

    torch.manual_seed(0)
    model = make(policy_kwargs={"net_arch": [6], "encoder": "analog", "surrogate": "sigmoid"})
    policy = model.policy.double().eval()
    for layer in policy.modules():
        if isinstance(layer, CurrentLIF):
            layer.spike_fn = Surrogate("sigmoid", 1.0).smooth
    with torch.no_grad():
        policy.action_net.weight.mul_(100)  # undo the small start, so that the actor matters
    obs = torch.as_tensor(OBS[:16]).double()
    network = policy.mlp_extractor.policy_net
    with torch.no_grad():
        target = policy.action_net(network(obs)) + 0.3
    parameters = dict(network.named_parameters())

    def gradient(create_graph: bool) -> list[torch.Tensor]:
        loss = (policy.action_net(network(obs)) - target).square().mean()
        return list(torch.autograd.grad(loss, list(parameters.values()), create_graph=create_graph))

    for name in parameters:
        vectors = [
            torch.randn_like(p) if other == name else torch.zeros_like(p)
            for other, p in parameters.items()
        ]
        dot = sum((g * v).sum() for g, v in zip(gradient(True), vectors, strict=True))
        assert isinstance(dot, torch.Tensor)
        products = torch.autograd.grad(dot, list(parameters.values()), allow_unused=True)
        h = 1e-6
        shifted = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, v in zip(parameters.values(), vectors, strict=True):
                    p.add_(sign * h * v)
            shifted.append([g.detach() for g in gradient(False)])
            with torch.no_grad():
                for p, v in zip(parameters.values(), vectors, strict=True):
                    p.sub_(sign * h * v)
        for block, (product, up, down) in enumerate(zip(products, *shifted, strict=True)):
            assert product is not None, (name, block)
            expected = (up - down) / (2 * h)
            scale = expected.abs().max() + 1e-6
            assert (product - expected).abs().max() / scale < 1e-3, (name, block)


def test_fresh_process_needs_only_stable_baselines3(tmp_path: Path) -> None:
    model = make()
    model.learn(64)
    model.save(tmp_path / "model")
    np.savez(tmp_path / "data.npz", obs=OBS, action=model.predict(OBS, deterministic=True)[0])
    out = run_python(
        "import numpy as np\n"
        "from stable_baselines3 import PPO\n"
        f"data = np.load(r'{tmp_path / 'data.npz'}')\n"
        f"model = PPO.load(r'{tmp_path / 'model'}', device='cpu')\n"
        "action = model.predict(data['obs'], deterministic=True)[0]\n"
        "print(np.abs(action - data['action']).max())"
    )
    assert out.strip() == "0.0"


def test_same_seed_same_run() -> None:
    first, again = (make().learn(96).policy.state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


@pytest.mark.parametrize("name", ["action_net.weight", "mlp_extractor.policy_net.encoder.mean"])
def test_broken_weights_are_named(name: str) -> None:
    model = make()
    with torch.no_grad():
        model.policy.get_parameter(name).fill_(float("inf"))
    with pytest.raises(ValueError, match=rf"output is NaN or infinite: \['{name}'\]"):
        model.predict(OBS)


def test_broken_observations_stop_learning_before_harm() -> None:
    model = make(A2C, FaultyEnv(np.nan, 5))
    with pytest.raises(ValueError, match=r"observations must be finite.*feature 1"):
        model.learn(100)
    assert all(torch.isfinite(v).all() for v in model.policy.state_dict().values())
    with pytest.raises(ValueError, match=r"observations must be finite.*feature 2"):
        model.predict(np.array([[0, 0, np.nan]], np.float32))
