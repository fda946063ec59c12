import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.optim import Optimizer

from policies.actor import PopulationBody
from policies.normalizer import RunningNormalizer
from policies.population import PopulationReadout
from sb3_spiking.sac import SpikingSACPolicy
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


def make(env: Any = "Pendulum-v1", policy: str = "SpikingPopPolicy", **kwargs: Any) -> SAC:
    """A small model that trains from step 20 on."""
    settings: dict[str, Any] = {
        "learning_starts": 20, "batch_size": 16, "buffer_size": 500, "seed": 0, "device": "cpu",
    }  # fmt: skip
    policy_kwargs = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    return SAC(policy, env, policy_kwargs=policy_kwargs, **{**settings, **kwargs})


def assert_learns(model: SAC, steps: int = 60) -> None:
    """Every tensor of the actor moves and stays finite."""
    before = copy.deepcopy(model.actor.state_dict())
    model.learn(steps)
    assert model._n_updates > 0
    for name, value in model.actor.state_dict().items():
        if "features_extractor" not in name and not name.endswith(("mean_error", "fixed")):
            assert not torch.equal(value, before[name]), name
        assert torch.isfinite(value).all(), name


@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"net_arch": []},
        {"net_arch": {"pi": [8], "qf": [12]}},
        {"encoder": "poisson"},
        {"encoder": "analog", "decoder": "membrane", "neuron": "lif"},
        {"log_std_init": -2.0, "use_expln": True, "clip_mean": 0.0},
    ],
    ids=str,
)
def test_learns_saves_and_loads(options: dict[str, Any], use_sde: bool, tmp_path: Path) -> None:
    model = make(policy_kwargs=options, use_sde=use_sde)
    assert_learns(model, 80)
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model")
    expected, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(expected, loaded.predict(OBS, deterministic=True)[0])
    model.policy.save(str(tmp_path / "policy"))
    policy = SpikingSACPolicy.load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_array_equal(expected, policy.predict(OBS, deterministic=True)[0])
    assert np.ptp(expected) > 0


def test_defaults_are_sacs_and_only_the_actor_spikes() -> None:
    model = SAC("SpikingPopPolicy", "Pendulum-v1", buffer_size=10)
    body = model.actor.latent_pi
    assert isinstance(body, PopulationBody)
    assert body.config.hidden_sizes == (256, 256)
    assert not any(isinstance(m, PopulationBody) for m in model.critic.modules())


def test_fresh_process_needs_only_stable_baselines3(tmp_path: Path) -> None:
    model = make()
    model.learn(40)
    model.save(tmp_path / "model")
    np.savez(tmp_path / "data.npz", obs=OBS, action=model.predict(OBS, deterministic=True)[0])
    out = run_python(
        "import numpy as np\n"
        "from stable_baselines3 import SAC\n"
        f"data = np.load(r'{tmp_path / 'data.npz'}')\n"
        f"model = SAC.load(r'{tmp_path / 'model'}', device='cpu')\n"
        "action = model.predict(data['obs'], deterministic=True)[0]\n"
        "print(np.abs(action - data['action']).max())"
    )
    assert out.strip() == "0.0"


def test_poisson_predicts_deterministically_when_asked() -> None:
    model = make(policy_kwargs={"encoder": "poisson"})
    first, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_array_equal(first, model.predict(OBS, deterministic=True)[0])
    with torch.no_grad():
        mean, _, _ = model.actor.get_action_dist_params(torch.as_tensor(OBS))
    assert np.abs(2 * torch.tanh(mean).numpy() - first).max() > 0  # training draws


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_spaces(name: str) -> None:
    make(TinyEnv(OBSERVATIONS[name], ACTION)).learn(30)


@pytest.mark.parametrize("name", ACTIONS)
def test_action_bounds_and_shapes(name: str) -> None:
    make(TinyEnv(BOX, ACTIONS[name])).learn(30)  # TinyEnv asserts that each action is valid


def test_dict_and_image_observations() -> None:
    assert_learns(make(TinyEnv(DICT, ACTION), "SpikingPopMultiInputPolicy"))
    model = make(TinyEnv(IMAGE, ACTION), "SpikingPopCnnPolicy", buffer_size=60)
    model.learn(24)
    assert model._n_updates == 4
    with pytest.raises(ValueError, match="use 'SpikingPopMultiInputPolicy'"):
        make(TinyEnv(DICT, ACTION))


def test_under_vecnormalize() -> None:
    assert_learns(make(VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))))


def test_actor_rate_is_scaled_and_the_entropy_coefficients_is_not() -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.1}, learning_rate=1e-2)
    entropy = model.ent_coef_optimizer
    assert entropy is not None
    seen: list[tuple[Optimizer, float]] = []

    def watch(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        seen.append((optimizer, optimizer.param_groups[0]["lr"]))

    for optimizer in (model.actor.optimizer, entropy):
        optimizer.register_step_pre_hook(watch)
    model.learn(21)
    # SAC steps the entropy coefficient first.
    assert [optimizer for optimizer, _ in seen] == [entropy, model.actor.optimizer]
    assert [rate for _, rate in seen] == pytest.approx([1e-2, 1e-3])


def test_statistics_learn_once_an_update_and_from_its_observations_only() -> None:
    """SAC asks the actor in training mode for targets too; next observations are not for it."""
    model = make()
    model.learn(30)
    normalizer = model.actor.latent_pi.normalizer
    assert isinstance(normalizer, RunningNormalizer)
    assert normalizer.running_count.item() == 16 * model._n_updates


def test_deviation_and_mean_are_clipped_as_in_sb3() -> None:
    obs = torch.as_tensor(OBS[:4])
    model = make()
    with torch.no_grad():
        bias = model.actor.get_parameter("log_std.bias")
        bias.fill_(100.0)
        assert (model.actor.get_action_dist_params(obs)[1] == 2).all()
        bias.fill_(-100.0)
        assert (model.actor.get_action_dist_params(obs)[1] == -20).all()
    for clip, expected in ((1.5, 1.5), (0.0, 100.0)):
        model = make(use_sde=True, policy_kwargs={"clip_mean": clip})
        for module in model.actor.mu.modules():
            if isinstance(module, PopulationReadout):
                with torch.no_grad():
                    module.weight.zero_()
                    module.bias.fill_(100.0)
        assert (model.actor.get_action_dist_params(obs)[0] == expected).all()


def test_gsde_noise_trains_the_spiking_body() -> None:
    model = make(use_sde=True)
    latent = model.actor.get_action_dist_params(torch.as_tensor(OBS))[2]["latent_sde"]
    latent.square().sum().backward()
    for name, parameter in model.actor.latent_pi.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["mu.weight", "log_std.weight", "latent_pi.encoder.std"])
def test_broken_weights_are_named(name: str, bad: float) -> None:
    model = make()
    with torch.no_grad():
        model.actor.get_parameter(name).fill_(bad)
    message = rf"output is NaN or infinite: \['{name}'\].*earlier checkpoint"
    with pytest.raises(ValueError, match=message):
        model.predict(OBS, deterministic=True)


def test_broken_observations_stop_learning_before_harm() -> None:
    for seed in range(4):
        model = make(FaultyEnv(np.nan, 5), learning_starts=10, batch_size=4, seed=seed)
        with pytest.raises(ValueError, match=r"observations must be finite.*feature 1"):
            model.learn(100)
        assert all(torch.isfinite(v).all() for v in model.policy.state_dict().values())
        assert model.log_ent_coef is not None
        assert torch.isfinite(model.log_ent_coef)


def test_options_of_another_algorithm_are_named() -> None:
    with pytest.raises(TypeError, match="unknown keyword 'n_quantiles'"):
        make(policy_kwargs={"n_quantiles": 5})
    space = spaces.Discrete(3)
    with pytest.raises(AssertionError, match="Discrete"):  # SB3's own
        make(TinyEnv(BOX, space))
