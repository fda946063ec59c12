"""`python -m sb3_spiking.report`: a page about a model and its dense twin."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from policies.actor import PopulationBody
from policies.energy import Figure
from policies.energy.loihi import LoihiResult
from policies.energy.meter import EnergyMeter
from policies.population import PopulationReadout
from policies.report import Absent, Report, Summary
from sb3_spiking import load_popsan
from sb3_spiking.on_policy import SpikingActorCriticPolicy
from sb3_spiking.report.__main__ import main
from sb3_spiking.report.arguments import parse
from sb3_spiking.report.make import make_report
from tests.common import POPSAN_FILE, needs_popsan
from tests.sb3_spiking.matrix import ALGORITHMS, Cell, acting_parameters, build, environment
from tests.sb3_spiking.test_report_network import CELLS

ENV = "ReportTiny-v0"
SMALL: dict[str, Any] = {"net_arch": [12], "encoder_pop_size": 4, "decoder_pop_size": 3}


@pytest.fixture(autouse=True)
def no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking the machine's counters up takes seconds."""
    monkeypatch.setattr("policies.report.run.EnergyMeter", lambda **_: EnergyMeter(enabled=False))


@pytest.fixture
def register() -> Iterator[Any]:
    """Register the environment of a cell of the matrix."""

    def call(cell: Cell) -> None:
        def create(**_: Any) -> gym.Env[Any, Any]:
            return environment(cell.algorithm, cell.observation, cell.action)

        gym.register(ENV, entry_point=create, disable_env_checker=True)

    yield call
    gym.registry.pop(ENV, None)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spiking and a dense PPO of CartPole, barely trained."""
    folder = tmp_path_factory.mktemp("ppo")
    for name, policy, kwargs in (
        ("spiking", "SpikingPopPolicy", SMALL),
        ("dense", "MlpPolicy", {"net_arch": [12]}),
    ):
        model = sb3.PPO(
            policy, "CartPole-v1", n_steps=64, seed=1, policy_kwargs=dict(kwargs), device="cpu"
        )
        model.learn(128).save(folder / f"{name}.zip")
    return folder


def made(*args: Any) -> Report:
    return make_report(parse([str(arg) for arg in args]))


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def played_by_hand(model: Any, env_id: str, seeds: range) -> list[float]:
    env = gym.make(env_id)
    returns = []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
    return returns


def is_before(name: str) -> bool:
    return name.startswith(("extractor", "lstm"))


def test_every_algorithm_is_in_the_list() -> None:
    assert {cell.algorithm for cell in CELLS} == set(ALGORITHMS)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_each_algorithm_is_found_played_and_counted(
    cell: Cell, register: Any, tmp_path: Path
) -> None:
    register(cell)
    model = build(cell)
    path = tmp_path / "model.zip"
    model.save(path)
    found = made(path, "--env", ENV, "--episodes", 2)
    assert found.title == f"Spiking {cell.algorithm} on {ENV}"
    spiking, dense = found.spiking, found.dense
    assert isinstance(spiking.returns, Summary)
    assert isinstance(spiking.lengths, Summary)
    assert spiking.lengths.values == (20.0, 20.0)
    assert spiking.accumulates > 0
    assert {"encoder", "linear", "decoder", "neurons"} <= {layer.kind for layer in spiking.layers}
    # Before the hidden layers stands the same, and costs the same.
    before = [
        {
            layer.name: layer.multiply_accumulates
            for layer in network.layers
            if is_before(layer.name)
        }
        for network in (spiking, dense)
    ]
    assert before[0] == before[1]
    assert bool(before[0]) == ("Cnn" in cell.policy or "Lstm" in cell.policy)
    assert not any(layer.kind == "norm" for layer in dense.layers)
    assert found.alike
    assert any(layer.firing_rate is not None for layer in spiking.layers)
    assert isinstance(dense.returns, Absent)
    assert dense.title == f"dense {cell.algorithm}, untrained"
    assert list(found.break_even["energy ratio"]) == ["all products"]
    assert dense.dense == dense.multiply_accumulates > 0
    assert not any(layer.firing_rate is not None for layer in dense.layers)
    for network in (spiking, dense):
        assert network.uncounted == ()
        assert network.latency.low.value <= network.latency.median.value
    if cell.policy == "SpikingPopPolicy" and cell.algorithm in ("TD3", "DDPG", "DQN", "QRDQN"):
        parameters = acting_parameters(model)
        assert spiking.parameters == sum(tensor.numel() for tensor in parameters.values())


def test_returns_are_those_of_the_seeds(ppo: Path) -> None:
    found = made(
        ppo / "spiking.zip", "--env", "CartPole-v1", "--dense", ppo / "dense.zip",
        "--episodes", 3, "--seed", 7,
    )  # fmt: skip
    for name, network in (("spiking", found.spiking), ("dense", found.dense)):
        model = sb3.PPO.load(ppo / f"{name}.zip", device="cpu")
        assert isinstance(network.returns, Summary)
        assert list(network.returns.values) == played_by_hand(model, "CartPole-v1", range(7, 10))
    assert found.dense.title == "dense PPO"
    # Tanh units: nothing is 0 but, at times, an input.
    assert found.dense.dense == 4 * 12 + 12 * 2
    assert found.dense.zeros_skipped
    assert list(found.break_even["energy ratio"]) == ["all products", "zeros skipped"]


def test_files_are_written_and_printed(
    ppo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page"
    args = (ppo / "spiking.zip", "--env", "CartPole-v1", "--episodes", 2, "--out", out)
    code, shown, errors = run(capsys, *args, "--costs", "45nm-int8")
    assert (code, errors) == (0, "")
    assert shown.startswith((out / "report.md").read_text())
    assert "return, mean (sd)" in shown
    assert "not known: train one and pass it with --dense" in shown
    content = json.loads((out / "report.json").read_text())
    assert content["costs"]["name"] == "45nm-int8"
    counted = content["spiking"]["energies"][0]["decision"]
    totals = content["spiking"]["totals"]
    expected = 0.03 * totals["accumulates"] + 0.23 * totals["multiply_accumulates"]
    assert counted["kind"] == "counted"
    assert counted["value"] == pytest.approx(expected / 1000.0)
    assert {entry["kind"] for entry in content["spiking"]["energies"]} == {
        "counted", "simulated", "measured", "estimated",
    }  # fmt: skip
    assert "absent" in content["spiking"]["energies"][-1]["decision"]
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_statistics_of_vec_normalize_are_used(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
    model = sb3.A2C(
        "SpikingPopPolicy", env, policy_kwargs={**SMALL, "normalize_obs": False}, device="cpu"
    )
    model.learn(40)
    readout = model.policy.action_net
    assert isinstance(readout, PopulationReadout)
    with torch.no_grad():  # actions that depend on what is seen
        readout.weight.mul_(300.0)
    model.save(tmp_path / "model.zip")
    env.save(str(tmp_path / "statistics.pkl"))
    args = (tmp_path / "model.zip", "--env", "Pendulum-v1", "--episodes", 1)
    found = made(*args, "--vec-normalize", tmp_path / "statistics.pkl", "--seed", 3)
    env.training, env.norm_reward = False, False
    env.seed(3)
    obs: Any = env.reset()
    total, done = 0.0, False
    while not done:
        action, _ = model.predict(obs, deterministic=True)
        obs, reward, dones, _ = env.step(action)
        total, done = total + float(reward[0]), bool(dones[0])
    assert isinstance(found.spiking.returns, Summary)
    assert found.spiking.returns.values[0] == pytest.approx(total, rel=1e-4)
    assert found.spiking.returns != made(*args, "--seed", 3).spiking.returns


@pytest.fixture(scope="module")
def zoo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a run's folder of RL Zoo, with a wrapper and statistics."""
    pytest.importorskip("rl_zoo3")
    import rl_zoo3.train

    from sb3_spiking import zoo

    folder = tmp_path_factory.mktemp("zoo")
    line = [
        "zoo", "train", "-f", str(folder), "--device", "cpu", "--algo", "ppo", "--env",
        "Pendulum-v1", "-n", "64", "--eval-freq", "-1", "-params", "normalize:True", "n_envs:2",
        "n_steps:32", "env_wrapper:'rl_zoo3.wrappers.TimeFeatureWrapper'",
        "policy_kwargs:dict(net_arch=[8])",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        original = rl_zoo3.train.ExperimentManager  # type: ignore[attr-defined]  # not exported
        patch.setitem(vars(rl_zoo3.train), "ExperimentManager", original)
        patch.setattr("sys.argv", line)
        zoo.main()
    return folder / "ppo" / "Pendulum-v1_1"


def test_a_model_of_the_zoo_brings_everything_along(
    zoo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(zoo_run / "Pendulum-v1.zip", "--episodes", 1, "--out", tmp_path)
    assert found.title == "Spiking PPO on Pendulum-v1"
    assert any("wrappers and statistics of" in note for note in found.notes)
    encoder = next(layer for layer in found.spiking.layers if layer.name.endswith("encoder"))
    # The wrapper adds the time to Pendulum's three numbers: 4 dimensions of 10 fields, 2 each.
    assert encoder.multiply_accumulates == 2 * 4 * 10
    alone = tmp_path / "alone.zip"
    shutil.copy(zoo_run / "Pendulum-v1.zip", alone)
    assert run(capsys, alone)[::2] == (
        2,
        f"error: {alone} lies in no folder of RL Zoo that names one: pass --env\n",
    )
    code, _, errors = run(capsys, alone, "--env", "Pendulum-v1")
    assert code == 2
    assert "was not trained for Pendulum-v1: Observation spaces do not match" in errors
    code, _, errors = run(capsys, zoo_run / "Pendulum-v1.zip", "--algo", "sac")
    assert code == 2
    assert "holds a policy of PPO or A2C, --algo says SAC" in errors


def test_ambiguous_files_say_what_was_assumed(tmp_path: Path) -> None:
    for name, other in (("TD3", "DDPG"), ("DDPG", "TD3")):
        path = tmp_path / f"{name}.zip"
        policy_kwargs = dict(SMALL)
        model = ALGORITHMS[name](
            "SpikingPopPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs=policy_kwargs
        )
        model.save(path)
        found = made(path, "--env", "Pendulum-v1", "--episodes", 1)
        assert found.title == f"Spiking {name} on Pendulum-v1"
        assert found.notes[0].startswith(f"{name}.zip: taken for {name} by its settings; {other} ")
        given = made(path, "--env", "Pendulum-v1", "--episodes", 1, "--algo", other.lower())
        assert given.title == f"Spiking {other} on Pendulum-v1"
        # 3 inputs, 12 units, 1 action.
        assert given.dense.dense == 3 * 12 + 12


def test_what_is_wrong_is_named(
    ppo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spiking, dense = ppo / "spiking.zip", ppo / "dense.zip"
    (tmp_path / "text.zip").write_text("no model")
    env = ("--env", "CartPole-v1")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((tmp_path / "none.zip", *env), "there is no model"),
        ((tmp_path, *env), "is a folder; name the model's .zip"),
        ((tmp_path / "text.zip", *env), "damaged or no model of Stable-Baselines3"),
        ((dense, *env), "holds a dense policy, ActorCriticPolicy; MODEL must be a spiking one"),
        ((spiking, *env, "--dense", spiking), "holds a spiking policy"),
        ((spiking, *env, "--dense", tmp_path / "none.zip"), "there is no model"),
        ((spiking, "--env", "Pendulum-v1"), "was not trained for Pendulum-v1"),
        ((spiking, "--env", "NoSuchEnv-v0"), "'NoSuchEnv-v0' cannot be made"),
        ((spiking, *env, "--env-kwargs", "wings:2"), "'CartPole-v1' cannot be made"),
        ((spiking, *env, "--env-kwargs", "wings"), "must be name:value, got 'wings'"),
        ((spiking, *env, "--algo", "dqn"), "holds a policy of PPO or A2C, --algo says DQN"),
        ((spiking, *env, "--algo", "xyz"), "--algo must be one of"),
        ((spiking, *env, "--gym-packages", "no_such_package"), "cannot be imported"),
        ((spiking, *env, "--vec-normalize", tmp_path / "x.pkl"), "there is no file"),
        ((spiking, *env, "--vec-normalize", tmp_path / "text.zip"), "no statistics of VecNormal"),
        ((spiking, *env, "--dense-vec-normalize", "x"), "is for the model of --dense"),
        ((spiking, *env, "--out", tmp_path / "text.zip" / "page"), "cannot be written"),
        ((spiking, *env, "--costs", "3nm"), "invalid choice: '3nm'"),
        ((spiking, *env, "--episodes", "0"), "must be an integer from 1 on, got '0'"),
    ]
    for args, message in cases:
        code, shown, errors = run(capsys, *args)
        assert code == 2, args
        assert shown == "", args
        assert message in errors, (args, errors)
        assert errors.startswith("error: "), args
        assert errors.count("\n") == 1, args


def test_help_warns_of_files_that_are_not_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "args.yml and config.yml of RL Zoo's folder run code when they are opened" in text
    assert "pass only files and folders whose origin you trust" in text


def test_a_policy_of_someone_else_needs_its_algorithm(
    ppo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Own(SpikingActorCriticPolicy):
        pass

    model = sb3.PPO(Own, "CartPole-v1", policy_kwargs=dict(SMALL), device="cpu")
    path = tmp_path / "own.zip"
    model.save(path)
    code, _, errors = run(capsys, path, "--env", "CartPole-v1")
    assert code == 2
    assert "names no algorithm: pass --algo" in errors
    found = made(path, "--env", "CartPole-v1", "--episodes", 1, "--algo", "ppo")
    assert found.title == "Spiking PPO on CartPole-v1"


def test_simulated_energy_has_its_own_row(ppo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the simulator, whose own tests start it: that takes seconds."""
    seen: list[tuple[Any, Any, bool]] = []

    def simulate(
        actor: Any, observations: Any, *, decisions: int = 32, deterministic: bool = False
    ) -> LoihiResult:
        seen.append((actor, observations, deterministic))
        figure = Figure(7.0, "nJ", "simulated", "stand-in")
        time = Figure(3.0, "us", "simulated", "stand-in")
        return LoihiResult(
            {"total": figure}, time, {}, 0.0, 1.0, 0.0, 0.0, 2, 50, decisions, 4, "Doubtful."
        )

    monkeypatch.setattr("policies.energy.loihi.simulate_on_loihi", simulate)
    monkeypatch.setattr("policies.energy.loihi_process.check_installed", lambda: None)
    args = (ppo / "spiking.zip", "--env", "CartPole-v1", "--episodes", 5)
    found = made(*args, "--loihi")
    row = next(row for row in found.spiking.energies if row.kind == "simulated")
    assert isinstance(row.decision, Figure)
    assert isinstance(row.episode, Figure)
    assert isinstance(found.spiking.lengths, Summary)
    assert row.decision.value == 7.0
    assert row.episode.value == pytest.approx(7.0 * found.spiking.lengths.mean)
    assert any("in 2 of 50 in 32 decisions" in note and "Doubtful." in note for note in found.notes)
    ((actor, observations, deterministic),) = seen
    assert isinstance(actor, PopulationBody)
    assert deterministic
    # All that was counted on: the simulator picks.
    assert observations.shape == (sum(found.spiking.lengths.values), 4)
    without = {row.kind: row for row in made(*args).spiking.energies}
    assert without["simulated"].decision == Absent("not simulated: pass --loihi")


def test_an_analog_encoder_cannot_be_simulated(tmp_path: Path) -> None:
    pytest.importorskip("sanafe")
    kwargs = {**SMALL, "encoder": "analog"}
    model = sb3.PPO("SpikingPopPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    model.save(tmp_path / "model.zip")
    found = made(tmp_path / "model.zip", "--env", "CartPole-v1", "--episodes", 1, "--loihi")
    row = next(row for row in found.spiking.energies if row.kind == "simulated")
    assert isinstance(row.decision, Absent)
    assert "analog" in row.decision.why


@needs_popsan
def test_published_actor_on_half_cheetah(tmp_path: Path) -> None:
    load_popsan(POPSAN_FILE, "HalfCheetah-v4", device="cpu").save(tmp_path / "popsan.zip")
    found = made(tmp_path / "popsan.zip", "--env", "HalfCheetah-v4", "--episodes", 1)
    # The reference's own observations give about 190,900 accumulates.
    assert 180_000 < found.spiking.accumulates < 200_000
    assert found.dense.dense == 17 * 256 + 256 * 256 + 256 * 6
    assert isinstance(found.spiking.returns, Summary)
    assert found.spiking.returns.mean > 9_000
