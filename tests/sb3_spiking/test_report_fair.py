"""The two networks of a report are alike, and its decisions are those that were taken."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from policies.energy.meter import EnergyMeter
from sb3_spiking.report import make as report_make
from sb3_spiking.report.__main__ import main
from sb3_spiking.report.arguments import parse
from sb3_spiking.report.fill import is_alike
from sb3_spiking.report.make import make_report
from sb3_spiking.saved import episodes, loading
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.loading import load, size_text, untrained_twin
from tests.sb3_spiking.envs import TinyEnv

SMALL: dict[str, Any] = {"net_arch": [12], "encoder_pop_size": 4, "decoder_pop_size": 3}
CARTPOLE = ("--env", "CartPole-v1", "--episodes", "1")


@pytest.fixture(autouse=True)
def no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking the machine's counters up takes seconds."""
    monkeypatch.setattr("policies.report.run.EnergyMeter", lambda **_: EnergyMeter(enabled=False))


@pytest.fixture
def ppo(tmp_path: Path) -> Path:
    model = sb3.PPO("SpikingPopPolicy", "CartPole-v1", policy_kwargs=dict(SMALL), device="cpu")
    model.save(tmp_path / "ppo.zip")
    return tmp_path / "ppo.zip"


def float_image_model(path: Path) -> Path:
    """A policy on images that its space alone does not show to be images."""
    space = spaces.Box(0.0, 1.0, (3, 40, 40), np.float32)
    env = TinyEnv(space, spaces.Discrete(2))
    kwargs = {**SMALL, "normalize_images": False}
    model = sb3.PPO("SpikingPopCnnPolicy", env, policy_kwargs=kwargs, device="cpu")
    model.save(path)
    return path


def test_the_twin_sees_through_the_same_extractor(tmp_path: Path) -> None:
    own = load(float_image_model(tmp_path / "model.zip"), "PPO")
    twin = untrained_twin(own)
    assert type(twin.network.extractor).__name__ == "NatureCNN"
    shapes = [[p.shape for p in m.network.extractor.parameters()] for m in (own, twin)]
    assert shapes[0] == shapes[1] != []
    assert is_alike(own, twin)


def test_a_twin_with_another_extractor_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = load(float_image_model(tmp_path / "model.zip"), "PPO")
    text = loading.front_text
    monkeypatch.setattr(
        loading, "front_text", lambda network: text(network) if network is own.network else "none"
    )
    with pytest.raises(UsageError, match=r"another features extractor .* with --dense"):
        untrained_twin(own)


def test_lstms_of_other_sizes_are_named(tmp_path: Path) -> None:
    for name, policy, size in (("own", "SpikingPopLstmPolicy", 16), ("other", "MlpLstmPolicy", 6)):
        kwargs: dict[str, Any] = {"net_arch": [12], "lstm_hidden_size": size}
        model = sb3_contrib.RecurrentPPO(policy, "CartPole-v1", policy_kwargs=kwargs, device="cpu")
        model.save(tmp_path / f"{name}.zip")
    args = (str(tmp_path / "own.zip"), *CARTPOLE, "--dense", str(tmp_path / "other.zip"))
    found = make_report(parse(args))
    assert not found.alike
    # Gates of four: inputs, states and two biases.
    lstm = 4 * 6 * (4 + 6 + 2)
    (note,) = (note for note in found.notes if "not of the same size" in note)
    assert f"LSTM with {lstm:,} parameters, hidden layers 12; LSTM with " in note


def test_the_population_of_values_is_in_the_size(tmp_path: Path) -> None:
    model = sb3.DQN("SpikingPopPolicy", "CartPole-v1", buffer_size=1, policy_kwargs=dict(SMALL))
    model.save(tmp_path / "dqn.zip")
    own = load(tmp_path / "dqn.zip", "DQN")
    population = own.network.spiking_bodies()[0].config.decoder.pop_size
    expected = f"hidden layers 12 and a population of {population} for the values"
    assert size_text(own.network) == expected
    assert size_text(untrained_twin(own).network) == "hidden layers 12"


def test_decisions_are_counted_and_not_frames(ppo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return MaxAndSkipEnv(env, skip=4)

    env = make_vec_env("CartPole-v1", wrapper_class=skipping)
    taken = 0

    def counting(policy: Any, visit: Any) -> Any:
        nonlocal taken
        taken += 1
        return decide(policy, visit)

    decide = episodes.decide
    monkeypatch.setattr(episodes, "decide", counting)
    run, visits = episodes.play(load(ppo, "PPO").policy, env, 2, 0)
    env.close()
    assert sum(run.lengths) == len(visits) == taken - 3  # three to warm up
    # A reward of 1 a frame, of which a decision takes four.
    assert sum(run.returns) > 2 * sum(run.lengths)


def test_the_states_of_an_lstm_are_carried_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kwargs = {**SMALL, "lstm_hidden_size": 6}
    model = sb3_contrib.RecurrentPPO(
        "SpikingPopLstmPolicy", "Pendulum-v1", policy_kwargs=kwargs, device="cpu", seed=0
    )
    policy: Any = model.policy
    env = make_vec_env("Pendulum-v1")
    _, visits = episodes.play(policy, env, 1, 5)
    env.close()
    states, start = None, np.ones(1, bool)
    for visit in visits[:20]:
        if states is not None:
            for own, expected in zip(visit.states or (), states, strict=True):
                np.testing.assert_allclose(own, expected, rtol=1e-5)
                assert np.abs(own).max() > 0
        action, states = model.predict(visit.obs, states, start, deterministic=True)
        taken, _ = episodes.decide(policy, visit)
        np.testing.assert_allclose(taken, action, rtol=1e-5)
        start = np.zeros(1, bool)


def test_rewards_that_are_not_finite_are_named(ppo: Path) -> None:
    class Broken(gym.RewardWrapper[Any, Any]):
        def reward(self, reward: Any) -> float:
            return float("nan")

    env = make_vec_env("CartPole-v1", wrapper_class=Broken)
    with pytest.raises(UsageError, match=r"gave the reward nan after 1 decisions .* seed 4"):
        episodes.play(load(ppo, "PPO").policy, env, 50, 4)
    env.close()


def test_an_environment_that_fails_is_the_users(
    ppo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pendulum = ppo.with_name("pendulum.zip")
    model = sb3.PPO("SpikingPopPolicy", "Pendulum-v1", policy_kwargs=dict(SMALL), device="cpu")
    model.save(pendulum)
    args = ("--env", "Pendulum-v1", "--episodes", "1", "--env-kwargs", "g:heavy")
    assert main([str(pendulum), *args]) == 2
    error = capsys.readouterr().err
    assert "error: the environment failed (TypeError: " in error
    assert error.count("\n") == 1


def test_faults_of_the_program_keep_their_traceback(
    ppo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(report_make, "fill_report", broken)
    with pytest.raises(ValueError, match="a fault"):
        main([str(ppo), *CARTPOLE])


def test_environments_are_closed_whatever_happens(
    ppo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_ones = 0
    make_one, close = DummyVecEnv.__init__, DummyVecEnv.close

    def opened(self: DummyVecEnv, *args: Any) -> None:
        nonlocal open_ones
        open_ones += 1
        make_one(self, *args)

    def closed(self: DummyVecEnv) -> None:
        nonlocal open_ones
        open_ones -= 1
        close(self)

    monkeypatch.setattr(DummyVecEnv, "__init__", opened)
    monkeypatch.setattr(DummyVecEnv, "close", closed)
    assert main([str(ppo), *CARTPOLE, "--out", str(ppo / "page")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert open_ones == 0


def test_interrupting_says_what_was_written(
    ppo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("policies.report.save", interrupt)
    assert main([str(ppo), *CARTPOLE]) == 130
    assert f"see whether the files in {ppo.with_name('ppo_report')}" in capsys.readouterr().err
    monkeypatch.setattr(report_make, "fill_report", interrupt)
    assert main([str(ppo), *CARTPOLE]) == 130
    assert "nothing was written" in capsys.readouterr().err
