"""Without other ranks: the same training bit for bit, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, TRPO
from stable_baselines3 import DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from policies.energy.meter import EnergyReading
from sb3_spiking.distributed import distribute, rollouts
from sb3_spiking.distributed.checkpoints import Checkpoints, SaveCheckpoints
from sb3_spiking.distributed.rollouts import SharedLimit
from sb3_spiking.distributed.vec_normalize import Moments
from sb3_spiking.distributed.zoo import _total
from tests.sb3_spiking.distributed.cases import Walk

SMALL: dict[str, Any] = {"net_arch": [16]}


def model_of(name: str) -> Any:
    kwargs: dict[str, Any] = {"policy_kwargs": dict(SMALL), "seed": 1}
    if name == "ppo":
        return PPO("SpikingPopPolicy", Walk(), n_steps=32, batch_size=16, target_kl=0.01, **kwargs)
    kwargs |= {"learning_starts": 20, "batch_size": 16}
    if name == "dqn":
        return DQN("SpikingPopPolicy", Walk(True), target_update_interval=10, **kwargs)
    return {"td3": TD3, "sac": SAC}[name]("SpikingPopPolicy", Walk(), **kwargs)


@pytest.mark.parametrize("name", ["td3", "sac", "dqn", "ppo"])
@pytest.mark.parametrize("split", [False, True])
def test_one_process_trains_as_without(name: str, split: bool) -> None:
    plain = model_of(name)
    plain.learn(96)
    model = distribute(model_of(name), split=split)
    model.learn(96)
    assert model.num_timesteps == plain.num_timesteps
    assert isinstance(model, type(plain))
    for (key, x), y in zip(
        plain.policy.state_dict().items(), model.policy.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y), key


@pytest.mark.parametrize("algorithm", [ARS, TRPO])
def test_algorithms_without_averages_are_refused(algorithm: Any) -> None:
    with pytest.raises(TypeError, match=f"{algorithm.__name__} "):
        distribute(algorithm("MlpPolicy", Walk()))


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="must be an algorithm of Stable-Baselines3, got Linear"):
        distribute(torch.nn.Linear(2, 2))


def test_float16_is_refused() -> None:
    with pytest.raises(ValueError, match="amp must be None or 'bf16' here, got 'fp16'"):
        distribute(model_of("td3"), amp="fp16")


def test_distributing_twice_is_refused() -> None:
    model = distribute(model_of("td3"))
    with pytest.raises(ValueError, match="distributed already"):
        distribute(model)


def test_load_of_the_class_gives_the_original_one(tmp_path: Path) -> None:
    model = distribute(model_of("td3"))
    model.save(tmp_path / "deep" / "model.v1")
    again = type(model).load(tmp_path / "deep" / "model.v1")
    assert type(again) is TD3


def test_gradient_norms_are_logged_before_clipping() -> None:
    model = distribute(PPO("MlpPolicy", Walk(), n_steps=32, batch_size=32, max_grad_norm=1e-3))
    model.learn(32)
    assert model.logger.name_to_value["train/policy_grad_norm"] > 1e-3
    assert model.max_grad_norm == 1e-3


def test_early_stop_is_by_the_mean_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "world_size", lambda: 2)
    limit = 1.5 * SharedLimit(0.1)
    for other, above in ((0.28, False), (0.32, True)):
        monkeypatch.setattr(rollouts, "gather_objects", lambda mine, other=other: [mine, other])
        # As Stable-Baselines3 compares: a number of NumPy on the left.
        assert bool(np.array(0.0, np.float32) > limit) is above


def test_energy_of_machines_is_added_up() -> None:
    here = EnergyReading(2.0, "measured", "CPU by RAPL")
    there = EnergyReading(3.0, "measured", "CPU by RAPL")
    total = _total([here, there])
    assert (total.kwh, total.kind) == (5.0, "measured")
    assert "2 machines" in total.method
    assert _total([here]) is here
    for other in (EnergyReading(None, None, "not measured: x"), replace(there, method="GPU")):
        assert _total([here, other]).kwh is None


def filled(buffer: ReplayBuffer, steps: int) -> ReplayBuffer:
    rng = np.random.default_rng(0)
    for _ in range(steps):
        if isinstance(buffer.observation_space, spaces.Dict):
            obs: Any = {key: rng.normal(size=(1, 3)) for key in buffer.observation_space.spaces}
        else:
            obs = rng.normal(size=(1, 3))
        done = rng.random(1) < 0.2
        buffer.add(obs, obs, rng.normal(size=(1, 2)), rng.normal(size=1), done, [{}])
    return buffer


@pytest.mark.parametrize("steps", [0, 7, 16, 23])
@pytest.mark.parametrize("kind", ["plain", "memory", "dict", "n-step"])
def test_replay_buffers_survive_a_checkpoint(kind: str, steps: int, tmp_path: Path) -> None:
    flat = spaces.Box(-1, 1, (3,), np.float32)
    action = spaces.Box(-1, 1, (2,), np.float32)
    kinds: dict[str, Callable[[], Any]] = {
        "plain": lambda: ReplayBuffer(16, flat, action),
        "memory": lambda: ReplayBuffer(
            16, flat, action, optimize_memory_usage=True, handle_timeout_termination=False
        ),
        "dict": lambda: DictReplayBuffer(16, spaces.Dict({"a": flat, "b": flat}), action),
        "n-step": lambda: NStepReplayBuffer(16, flat, action, n_steps=3, gamma=0.9),
    }
    buffer = kinds[kind]()
    model = distribute(model_of("td3"))
    model.replay_buffer = filled(buffer, steps)
    checkpoints = Checkpoints(tmp_path, "Walk")
    checkpoints.write(model)
    found = checkpoints.newest()
    assert found is not None
    again = model_of("td3")
    Checkpoints.load_replay_buffer(again, found)
    for name, value in vars(buffer).items():
        other = vars(again.replay_buffer)[name]
        if isinstance(value, dict):
            assert all(np.array_equal(value[key], other[key]) for key in value), name
        elif isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value, other)
        else:
            assert value == other, name


def test_hindsight_replay_survives_a_checkpoint(tmp_path: Path) -> None:
    bits: Any = BitFlippingEnv  # Stable-Baselines3 has not annotated it

    def make() -> Any:
        return DQN(
            "MultiInputPolicy",
            bits(n_bits=4, continuous=False, max_steps=4),
            replay_buffer_class=HerReplayBuffer,
            learning_starts=10,
            buffer_size=100,
            seed=0,
        )

    model = distribute(make())
    model.learn(30)
    checkpoints = Checkpoints(tmp_path, "BitFlip")
    checkpoints.write(model)
    found = checkpoints.newest()
    assert found is not None
    again = make()
    Checkpoints.load_replay_buffer(again, found)
    assert again.replay_buffer.size() == model.replay_buffer.size() == 32
    again.replay_buffer.sample(8)
    np.testing.assert_array_equal(again.replay_buffer.rewards, model.replay_buffer.rewards)


def test_checkpoint_of_other_ranks_or_settings_is_refused(tmp_path: Path) -> None:
    model = distribute(model_of("td3"))
    checkpoints = Checkpoints(tmp_path, "Walk")
    checkpoints.settings = {"gamma": "0.9"}
    checkpoints.write(model)
    checkpoints.check(tmp_path / "steps_0")
    checkpoints.settings = {"gamma": "0.5"}
    with pytest.raises(ValueError, match=r"gamma is 0\.5, but was 0\.9 when the run began"):
        checkpoints.check(tmp_path / "steps_0")
    state = json.loads((tmp_path / "steps_0" / "state.json").read_text())
    (tmp_path / "steps_0" / "state.json").write_text(json.dumps({**state, "ranks": 4}))
    with pytest.raises(
        ValueError, match=r"of 4 ranks, but 1 are running; .* with 4 processes in all"
    ):
        checkpoints.check(tmp_path / "steps_0")


@pytest.mark.parametrize("name", ["model.zip", "rank_0.pkl", "state.json"])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = distribute(model_of("td3"))
    checkpoints = Checkpoints(tmp_path, "Walk")
    for steps in (10, 20):
        model.num_timesteps = steps
        checkpoints.write(model)
    broken = tmp_path / "steps_20" / name
    broken.write_bytes(broken.read_bytes()[:-20])
    assert checkpoints.newest() == tmp_path / "steps_10"
    assert "steps_20 is damaged" in capsys.readouterr().out
    assert checkpoints.newest_whole() == tmp_path / "steps_10"
    (tmp_path / "steps_10" / name).unlink()
    assert checkpoints.any()
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole; delete that folder"):
        checkpoints.newest_whole()


def test_half_a_checkpoint_is_never_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = distribute(model_of("td3"))
    checkpoints = Checkpoints(tmp_path, "Walk")

    def fail(*args: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "save", fail)
        with pytest.raises(OSError, match="no space"):
            checkpoints.write(model)
    assert checkpoints.newest() is None
    checkpoints.write(model)
    assert [path.name for path in tmp_path.iterdir()] == ["steps_0"]


def test_checkpoints_are_made_on_time(tmp_path: Path) -> None:
    model = distribute(model_of("td3"))
    model.learn(50, callback=SaveCheckpoints(Checkpoints(tmp_path, "Walk"), every=20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["steps_20", "steps_40"]


def test_moments_merge_and_part() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(3.0, 2.0, (50, 4)), rng.normal(-1.0, 0.1, (7, 4))

    def moments(values: Any) -> Moments:
        mean = values.mean(axis=0)
        return Moments(len(values), mean, ((values - mean) ** 2).sum(axis=0))

    both = moments(np.concatenate([x, y]))
    for got, wanted in ((moments(x) + moments(y), both), (both.since(moments(x)), moments(y))):
        assert got.count == wanted.count
        np.testing.assert_allclose(got.mean, wanted.mean, rtol=1e-12)
        np.testing.assert_allclose(got.squares, wanted.squares, rtol=1e-9)
    assert both.since(both).count == 0.0
