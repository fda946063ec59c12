import copy
import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import TD3Policy

import sb3_spiking
from policies.actor import PopulationActor
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)
from sb3_spiking.options import SpikingOptions
from sb3_spiking.td3 import SpikingTD3CnnPolicy, SpikingTD3MultiInputPolicy, SpikingTD3Policy
from tests.common import run_python
from tests.sb3_spiking.envs import ACTION, ACTIONS, BOX, DICT, IMAGE, OBSERVATIONS, TinyEnv

SMALL: dict[str, Any] = {"net_arch": [16, 16], "encoder_pop_size": 4, "decoder_pop_size": 4}


def make(
    env: gym.Env[Any, Any] | VecNormalize | str = "Pendulum-v1",
    policy: str | type[SpikingTD3Policy] = "SpikingPopPolicy",
    algo: type[TD3] = TD3,
    **kwargs: Any,
) -> TD3:
    """A small model that trains from step 20 on."""
    settings: dict[str, Any] = {
        "learning_starts": 20, "batch_size": 16, "buffer_size": 2_000, "seed": 0, "device": "cpu",
    }  # fmt: skip
    policy_kwargs = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    return algo(policy, env, policy_kwargs=policy_kwargs, **{**settings, **kwargs})


def network(model: TD3) -> PopulationActor:
    actor = model.actor.mu
    assert isinstance(actor, PopulationActor)
    return actor


def weights(model: TD3) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_trained(model: TD3, before: dict[str, torch.Tensor]) -> None:
    """Every tensor of the actor moved."""
    after = weights(model)
    assert model._n_updates > 0
    for name, value in before.items():
        if name.startswith("actor.") and not name.endswith(("mean_error", "fixed")):
            assert not torch.equal(value, after[name]), name
            assert torch.isfinite(after[name]).all(), name


def test_one_word_and_nothing_else() -> None:
    model = TD3("SpikingPopPolicy", "Pendulum-v1", learning_starts=10, buffer_size=1_000)
    before = weights(model)
    model.learn(16)
    assert_trained(model, before)
    config = network(model).config
    assert config.hidden_sizes == (400, 300)  # TD3Policy's default
    assert (config.spike_steps, config.encoder.pop_size, config.decoder.pop_size) == (5, 10, 10)
    assert not any(isinstance(m, PopulationActor) for m in model.critic.modules())


def test_accepts_every_keyword_of_td3policy_with_its_meaning() -> None:
    kwargs: dict[str, Any] = {
        "net_arch": {"pi": [8], "qf": [12, 12]},
        "activation_fn": torch.nn.Tanh,
        "features_extractor_class": FlattenExtractor,
        "features_extractor_kwargs": {},
        "normalize_images": False,
        "optimizer_class": torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.9},
        "n_critics": 3,
        "share_features_extractor": True,
    }
    named = set(inspect.signature(TD3Policy.__init__).parameters)
    assert set(kwargs) == named - {"self", "observation_space", "action_space", "lr_schedule"}
    model = make(policy_kwargs=kwargs)
    model.learn(60)
    assert network(model).config.hidden_sizes == (8,)
    assert len(model.critic.q_networks) == 3
    linears = [m for m in model.critic.q_networks[0].modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linears] == [12, 12, 1]
    assert any(isinstance(m, torch.nn.Tanh) for m in model.critic.modules())
    assert isinstance(model.actor.optimizer, torch.optim.RMSprop)
    assert model.actor.optimizer.param_groups[0]["alpha"] == 0.9
    assert model.actor.features_extractor is model.critic.features_extractor
    assert not model.policy.normalize_images


@pytest.mark.parametrize(
    "options",
    [
        {"net_arch": []},
        {"spike_steps": 3},
        {"encoder": "poisson"},
        {"encoder": "analog"},
        {"decoder": "membrane"},
        {"neuron": "lif", "v_decay": 0.5},
        {"neuron": "lif", "v_decay": 1.0, "reset_mode": "soft", "encoder_v_init": 0.5},
        {"reset_mode": "soft", "batch_norm": False},
        {"surrogate": "arctan", "surrogate_width": 2.0},
        {"surrogate": "sigmoid", "v_threshold": 0.3, "i_decay": 0.0},
        {"surrogate": "triangle", "encoder_range": 2.0, "encoder_std": 0.5},
        {"encoder_pop_size": 5, "decoder_pop_size": 3, "surrogate_width": 0.5},
        {"matmul": "float32", "kernel": "torch", "actor_lr_scale": 1.0},
        {"intra_layer": True, "decoder_pop_size": 10},
        {"synops_penalty": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("algo", [TD3, DDPG])
def test_every_option_trains_saves_and_loads(
    algo: type[TD3], options: dict[str, Any], tmp_path: Path
) -> None:
    model = make(algo=algo, policy_kwargs=options)
    before = weights(model)
    model.learn(80)
    assert_trained(model, before)
    model.save(tmp_path / "model")
    loaded = algo.load(tmp_path / "model")
    obs = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(expected, loaded.predict(obs, deterministic=True)[0])
    assert np.ptp(expected) > 0


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_spaces(name: str) -> None:
    model = make(TinyEnv(OBSERVATIONS[name], ACTION))
    model.learn(60)
    obs = model.get_env().reset()  # type: ignore[union-attr]  # the model has one
    assert isinstance(obs, np.ndarray)
    assert model.predict(obs)[0].shape == (1, 2)


@pytest.mark.parametrize("name", ACTIONS)
def test_action_bounds_and_shapes(name: str) -> None:
    space = ACTIONS[name]
    assert isinstance(space, spaces.Box)
    model = make(TinyEnv(BOX, space))
    model.learn(60)  # TinyEnv asserts that each action lies in the space
    obs = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32) * 10
    action, _ = model.predict(obs)
    assert action.shape == (50, *space.shape)
    assert all(space.contains(a) for a in action)
    single, _ = model.predict(obs[0])
    assert single.shape == space.shape


def test_dict_observations() -> None:
    model = make(TinyEnv(DICT, ACTION), "SpikingPopMultiInputPolicy")
    before = weights(model)
    model.learn(60)
    assert_trained(model, before)
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    assert network(model).encoder.obs_dim == 5


@pytest.mark.parametrize("scaled", [False, True])
def test_images_through_a_cnn(scaled: bool) -> None:
    """As SB3's CnnPolicy: bytes, or floats of the user's own scale with normalize_images=False."""
    space = spaces.Box(0.0, 1.0, (3, 36, 36), np.float32) if scaled else IMAGE
    kwargs = {"normalize_images": not scaled}
    model = make(
        TinyEnv(space, ACTION), "SpikingPopCnnPolicy", buffer_size=60, policy_kwargs=kwargs
    )
    before = weights(model)
    model.learn(26)
    after = weights(model)
    # The CNN learns through the spikes. One update of 512 features need not reach each field.
    for name in (n for n in before if n.startswith(("actor.features", "actor.mu.mlp"))):
        assert not torch.equal(before[name], after[name]), name
    assert network(model).encoder.obs_dim == 512
    assert model._n_updates == 6


def test_image_and_dict_spaces_are_refused_by_the_flat_policy() -> None:
    with pytest.raises(ValueError, match=r"flat observations.*use 'SpikingPopMultiInputPolicy'"):
        make(TinyEnv(DICT, ACTION))
    with pytest.raises(ValueError, match="one population per pixel; use 'SpikingPopCnnPolicy'"):
        make(TinyEnv(IMAGE, ACTION))
    with pytest.raises(ValueError, match=r"takes Dict observations, got Box.*'SpikingPopPolicy'"):
        make(TinyEnv(BOX, ACTION), "SpikingPopMultiInputPolicy")
    with pytest.raises(AssertionError, match="NatureCNN only with images"):  # SB3's own
        make(TinyEnv(BOX, ACTION), "SpikingPopCnnPolicy")
    with pytest.raises(ValueError, match=r"takes Dict observations.*'SpikingPopCnnPolicy'"):
        make(TinyEnv(IMAGE, ACTION), "SpikingPopMultiInputPolicy")
    with pytest.raises(ValueError, match=r"flat observations.*use 'SpikingPopMultiInputPolicy'"):
        make(TinyEnv(DICT, ACTION), policy_kwargs={"features_extractor_class": FlattenExtractor})
    # An explicit extractor is the user's choice.
    kwargs = {"features_extractor_class": FlattenExtractor}
    make(TinyEnv(spaces.Box(0, 255, (3, 36, 36), np.uint8), ACTION), policy_kwargs=kwargs)


def test_several_environments() -> None:
    env = make_vec_env("Pendulum-v1", n_envs=3)
    model = TD3(
        "SpikingPopPolicy", env, learning_starts=20, batch_size=16, train_freq=2, gradient_steps=3,
        policy_kwargs=dict(SMALL), buffer_size=3_000, device="cpu",
    )  # fmt: skip
    before = weights(model)
    model.learn(120)
    assert_trained(model, before)


def test_unbounded_raw_observations_without_vecnormalize() -> None:
    class Scaled(TinyEnv):
        """Features of scale 0.001, 1 and 1000, far from 0."""

        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            return (obs * np.array([1e-3, 1, 1e3], np.float32) + np.float32(50), *rest)

    model = make(Scaled(BOX, ACTION))
    model.learn(300)
    actor = network(model)
    assert actor.normalizer is not None
    obs = model.replay_buffer.sample(200).observations  # type: ignore[union-attr]  # it has one
    z = actor.normalizer(obs)
    assert z.mean(0).abs().max() < 0.4
    assert (z.std(0) - 1).abs().max() < 0.3
    actor.eval()
    assert actor.encoder(z).mean() > 0.05


def test_under_vecnormalize() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    model = make(env)
    before = weights(model)
    model.learn(100)
    assert_trained(model, before)


def test_normalizer_follows_the_target_network_rules() -> None:
    model = make()
    model.learn(100)
    online, target = network(model), model.actor_target.mu
    assert isinstance(target, PopulationActor)
    assert online.normalizer is not None
    assert target.normalizer is not None
    updates = model._n_updates // model.policy_delay
    assert online.normalizer.running_count.item() == 16 * updates
    for name, value in online.normalizer.state_dict().items():
        assert torch.equal(value, target.normalizer.state_dict()[name]), name
    # Parameters move slowly, statistics are copied.
    assert not torch.equal(online.encoder.mean, target.encoder.mean)
    before = weights(model)
    model.predict(np.full((8, 3), 100.0, np.float32))
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())


def test_normalizer_can_be_left_out() -> None:
    model = make(policy_kwargs={"normalize_obs": False})
    model.learn(40)
    assert network(model).normalizer is None


def test_poisson_has_a_deterministic_predict() -> None:
    model = make(policy_kwargs={"encoder": "poisson"})
    regular = make(policy_kwargs={"encoder": "deterministic"})
    regular.policy.load_state_dict(model.policy.state_dict())
    obs = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    first, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(first, model.predict(obs, deterministic=True)[0])
    # The same rates through the deterministic integrator, as PopSAN's test script does.
    np.testing.assert_array_equal(first, regular.predict(obs, deterministic=True)[0])
    assert np.abs(model.predict(obs)[0] - model.predict(obs)[0]).max() > 0


def test_two_models_in_one_process_do_not_disturb_each_other() -> None:
    alone = make()
    alone.learn(80)
    obs = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    expected, _ = alone.predict(obs, deterministic=True)
    model = make()
    seeded = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002  # SB3 draws from it
    other = make(policy_kwargs={"spike_steps": 3, "encoder": "poisson"}, seed=7)
    other.learn(80)
    other.predict(obs * 100)
    torch.set_rng_state(seeded[0])
    np.random.set_state(seeded[1])  # noqa: NPY002  # as above
    # Made before the other one and trained after it: as if alone.
    model.learn(80)
    np.testing.assert_array_equal(expected, model.predict(obs, deterministic=True)[0])
    np.testing.assert_array_equal(expected, alone.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("encoder", ["deterministic", "poisson"])
def test_same_seed_same_run(encoder: str) -> None:
    # One after the other: SB3 seeds the global generators when a model is made.
    first, again, other = (
        weights(make(seed=seed, policy_kwargs={"encoder": encoder}).learn(120))
        for seed in (0, 0, 5)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["actor.mu.encoder.mean"], other["actor.mu.encoder.mean"])


def test_policy_kwargs_are_left_as_they_were() -> None:
    kwargs = {**SMALL, "spike_steps": 2}
    before = copy.deepcopy(kwargs)
    TD3("SpikingPopPolicy", "Pendulum-v1", policy_kwargs=kwargs, buffer_size=10)
    TD3("SpikingPopPolicy", "Pendulum-v1", policy_kwargs=kwargs, buffer_size=10)
    assert kwargs == before


def test_every_option_reaches_the_network() -> None:
    """Each option away from its default, and where it must arrive."""
    options: dict[str, Any] = {
        "spike_steps": 7, "encoder_pop_size": 6, "decoder_pop_size": 8, "encoder": "poisson",
        "encoder_range": 2.0, "encoder_std": 0.6, "encoder_v_init": 0.4, "decoder": "membrane",
        "neuron": "current_lif",
        "v_decay": 0.6, "i_decay": 0.2, "v_threshold": 0.4, "surrogate": "arctan",
        "surrogate_width": 1.5, "normalize_obs": False, "actor_lr_scale": 0.7, "reset_mode": "soft",
        "intra_layer": True, "synops_penalty": 0.2,
    }  # fmt: skip
    config = network(make(policy_kwargs={**options, "net_arch": [9, 5]})).config
    neuron = CurrentLIFConfig(
        v_decay=0.6, i_decay=0.2, v_threshold=0.4, reset_mode="soft", surrogate="arctan",
        surrogate_width=1.5,
    )  # fmt: skip
    assert config == PopulationActorConfig(
        hidden_sizes=(9, 5),
        spike_steps=7,
        encoder=EncoderConfig(pop_size=6, kind="poisson", field_range=2.0, std=0.6, v_init=0.4),
        neuron=neuron,
        decoder=DecoderConfig(pop_size=8, kind="membrane"),
        normalize=False,
        intra_layer=True,
        synops_penalty=0.2,
    )
    lif = network(make(policy_kwargs={"neuron": "lif", "v_decay": 0.6})).config.neuron
    assert lif == LIFConfig(v_decay=0.6)
    assert not isinstance(lif, CurrentLIFConfig)


def options(model: Any) -> SpikingOptions:
    found = model.policy.options
    assert isinstance(found, SpikingOptions)
    return found


def test_recipes() -> None:
    """Without one it is "popsan"; what is given goes before it."""
    small: dict[str, Any] = {"net_arch": [8]}
    counting: dict[str, Any] = {**small, "recipe": "counting"}
    for algo in (TD3, DDPG):
        model = make(algo=algo, policy_kwargs=counting)
        config = network(model).config
        assert config.neuron == LIFConfig(v_decay=1.0, reset_mode="soft")
        assert (config.encoder.v_init, config.decoder.kind) == (0.5, "membrane")
        assert options(model).actor_lr_scale == 1.0
        for kwargs in (small, {**small, "recipe": "popsan"}):
            popsan = make(algo=algo, policy_kwargs=kwargs)
            config = network(popsan).config
            assert config.neuron == CurrentLIFConfig()
            assert (config.encoder.v_init, config.decoder.kind) == (0.0, "rate")
            assert options(popsan).actor_lr_scale == 0.3
    mixed = network(make(policy_kwargs={**counting, "decoder": "rate", "encoder": "analog"})).config
    assert (mixed.decoder.kind, mixed.encoder.v_init, mixed.neuron.v_decay) == ("rate", 0.0, 1.0)
    sac = SAC("SpikingPopPolicy", "Pendulum-v1", policy_kwargs={**small, "recipe": "counting"})
    assert (options(sac).neuron, options(sac).decoder) == ("lif", "membrane")
    with pytest.raises(ValueError, match=r"recipe must be one of .*popsan.*counting.*got 'none'"):
        make(policy_kwargs={"recipe": "none"})


def test_numpy_scalars_are_taken_as_numbers(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "net_arch": [np.int64(8)], "encoder_pop_size": np.int32(5), "v_decay": np.float64(0.5),
        "normalize_obs": np.bool_(True),
    }  # fmt: skip
    model = make(policy_kwargs=options)
    policy = model.policy
    assert isinstance(policy, SpikingTD3Policy)
    assert type(policy.options.encoder_pop_size) is int
    assert type(policy.options.normalize_obs) is bool
    assert network(model).config.hidden_sizes == (8,)
    model.save(tmp_path / "model")
    TD3.load(tmp_path / "model")


class Doubling(FlattenExtractor):
    """A user's own extractor."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(observations)


@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("policy", [SpikingTD3Policy, SpikingTD3CnnPolicy])
def test_a_users_extractor_is_used(policy: type[SpikingTD3Policy], positional: bool) -> None:
    args: tuple[Any, ...] = ([8], torch.nn.ReLU, Doubling) if positional else ()
    kwargs = {} if positional else {"features_extractor_class": Doubling}
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    made = policy(space, ACTION, lambda _: 1e-3, *args, **kwargs)
    assert isinstance(made.actor.features_extractor, Doubling)
    assert isinstance(made.critic.features_extractor, Doubling)


def test_a_users_extractor_for_dicts_is_used() -> None:
    class Own(CombinedExtractor):
        """Another one."""

    made = SpikingTD3MultiInputPolicy(
        DICT, ACTION, lambda _: 1e-3, [8], features_extractor_class=Own
    )
    assert isinstance(made.actor.features_extractor, Own)


def test_an_extractor_of_none_means_the_default() -> None:
    make(policy_kwargs={"features_extractor_class": None})
    kwargs = {"features_extractor_class": None}
    make(TinyEnv(DICT, ACTION), "SpikingPopMultiInputPolicy", policy_kwargs=kwargs)


def test_the_class_itself_can_be_passed() -> None:
    make(policy=SpikingTD3Policy).learn(40)


def test_evaluation_leaves_training_untouched() -> None:
    model = make()
    model.learn(60)
    before = weights(model)
    evaluate_policy(model, make_vec_env("Pendulum-v1"), 1, deterministic=False)
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())


def test_import_is_enough_and_idempotent() -> None:
    sb3_spiking.register()
    assert TD3.policy_aliases["SpikingPopPolicy"] is SpikingTD3Policy
    assert DDPG.policy_aliases is TD3.policy_aliases
    assert sb3_spiking.SpikingPopPolicy == "SpikingPopPolicy"
    assert run_python("import sys, sb3_spiking; print('d3rlpy' in sys.modules)") == "False\n"
