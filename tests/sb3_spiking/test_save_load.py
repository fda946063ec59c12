"""What is saved comes back: in this process, in a fresh one, and as a copy."""

import copy
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import TD3

from sb3_spiking.td3 import SpikingTD3Policy
from tests.common import run_python
from tests.sb3_spiking.test_td3 import assert_trained, make, network, weights


def test_fresh_process_needs_only_stable_baselines3(tmp_path: Path) -> None:
    model = make()
    model.learn(100)
    obs = np.random.default_rng(0).standard_normal((1_000, 3)).astype(np.float32) * 3
    model.save(tmp_path / "model")
    np.savez(tmp_path / "data.npz", obs=obs, action=model.predict(obs, deterministic=True)[0])
    out = run_python(
        "import sys, numpy as np\n"
        "from stable_baselines3 import TD3\n"
        f"data = np.load(r'{tmp_path / 'data.npz'}')\n"
        f"model = TD3.load(r'{tmp_path / 'model'}', device='cpu')\n"
        "action = model.predict(data['obs'], deterministic=True)[0]\n"
        "print(np.abs(action - data['action']).max(), len(action), 'd3rlpy' in sys.modules)"
    )
    assert out.split() == ["0.0", "1000", "False"]


def test_saved_file_names_no_module_of_the_core(tmp_path: Path) -> None:
    model = make()
    model.learn(40)
    model.save(tmp_path / "model")
    model.policy.save(str(tmp_path / "policy"))
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        data = file.read("data").decode()
    modules = set()
    with zipfile.ZipFile(tmp_path / "policy") as file:
        name = next(n for n in file.namelist() if n.endswith("data.pkl"))
        for opcode, argument, _ in pickletools.genops(file.read(name)):
            if opcode.name in {"GLOBAL", "SHORT_BINUNICODE", "BINUNICODE"}:
                modules.add(str(argument))
    assert "sb3_spiking.td3" in data
    assert "policies.actor" not in data
    assert not any(name.startswith("policies") for name in modules)


def test_training_continues_after_load(tmp_path: Path) -> None:
    model = make()
    model.learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = TD3.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    loaded.load_replay_buffer(tmp_path / "buffer")
    before = weights(loaded)
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120
    assert_trained(loaded, before)
    normalizer = network(loaded).normalizer
    assert normalizer is not None
    assert normalizer.running_count > before["actor.mu.normalizer.running_count"]


def test_set_parameters_and_policy_files(tmp_path: Path) -> None:
    model, other = make(), make(seed=1)
    model.learn(60)
    obs = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "model")
    other.set_parameters(str(tmp_path / "model"), exact_match=True)
    np.testing.assert_array_equal(expected, other.predict(obs, deterministic=True)[0])

    model.policy.save(str(tmp_path / "policy"))
    policy = SpikingTD3Policy.load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_array_equal(expected, policy.predict(obs, deterministic=True)[0])
    assert policy.options == model.policy.options

    model.actor.save(str(tmp_path / "actor"))
    actor = type(model.actor).load(str(tmp_path / "actor"), device="cpu")
    np.testing.assert_array_equal(expected, actor.predict(obs, deterministic=True)[0])


def test_a_charged_encoder_survives_its_file(tmp_path: Path) -> None:
    model = make(policy_kwargs={"encoder_v_init": 0.5})
    model.learn(60)
    obs = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    model.save(tmp_path / "model")
    loaded = TD3.load(tmp_path / "model")
    assert network(loaded).config.encoder.v_init == 0.5
    assert network(loaded).config == network(model).config
    expected, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(expected, loaded.predict(obs, deterministic=True)[0])
    single, _ = loaded.predict(obs[0], deterministic=True)  # event-driven
    np.testing.assert_array_equal(expected[0], single)
    # The state dict does not know of the start: other options read the same parameters otherwise.
    regular = make(policy_kwargs={"encoder_v_init": 0.0})
    regular.set_parameters(str(tmp_path / "model"), exact_match=True)
    assert not np.array_equal(expected, regular.predict(obs, deterministic=True)[0])


def test_options_survive_a_policy_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "spike_steps": 3, "encoder": "analog", "decoder": "membrane", "neuron": "lif",
        "v_decay": 0.3, "surrogate": "sigmoid", "surrogate_width": 0.7, "actor_lr_scale": 0.1,
        "normalize_obs": False, "encoder_range": 1.5, "encoder_std": 0.4,
    }  # fmt: skip
    model = make(policy_kwargs=options)
    model.policy.save(str(tmp_path / "policy"))
    policy = SpikingTD3Policy.load(str(tmp_path / "policy"), device="cpu")
    assert {name: getattr(policy.options, name) for name in options} == options


@pytest.mark.parametrize("deep", [copy.deepcopy], ids=["deepcopy"])
def test_deepcopy_is_equal_and_independent(deep: Any) -> None:
    model = make()
    model.learn(60)
    obs = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    twin = deep(model)
    np.testing.assert_array_equal(expected, twin.predict(obs, deterministic=True)[0])
    twin.learn(60, reset_num_timesteps=False)
    np.testing.assert_array_equal(expected, model.predict(obs, deterministic=True)[0])
    assert np.abs(expected - twin.predict(obs, deterministic=True)[0]).max() > 0
    online, target = twin.actor.mu.normalizer, twin.actor_target.mu.normalizer
    assert torch.equal(online.running_mean, target.running_mean)
