"""The studies and the energy curve: measures by hand, costs on paper, lists that go on."""

import dataclasses
import importlib
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from stable_baselines3 import TD3
from torch.utils.tensorboard import SummaryWriter

from benchmarks import energy_curve
from benchmarks.studies import __main__ as studies
from benchmarks.studies import arithmetic, energy_actors, fields, goal, lists, measure
from benchmarks.studies.runs import Training, work
from policies.actor import PopulationActor
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)
from policies.energy import COSTS, DEFAULT_COSTS
from policies.population import PopulationEncoder
from sb3_spiking.td3 import SpikingTD3Policy


def a_training(**changes: Any) -> Training:
    given: dict[str, Any] = {
        "name": "cell", "env": "Pendulum-v1", "steps": 200, "seed": 0,
        "policy_kwargs": {"net_arch": [8]},
    }  # fmt: skip
    return Training(**{**given, **changes})


@pytest.mark.parametrize(
    ("rates", "entropy", "gini", "silent", "rate"),
    [
        ([0.5, 0.5, 0.5, 0.5], 1.0, 0.0, 0.0, 0.5),
        ([0.0, 0.0, 1.0, 0.0], 0.0, 0.75, 0.75, 0.25),
        # shares 3/4, 1/4: 2 - 3/4 log2 3 bits; |3 - 1| twice over 2 x 4 x 2
        ([0.3, 0.1], 2.0 - 0.75 * math.log2(3.0), 0.25, 0.0, 0.2),
        # half of four neurons share alike: ln 2 / ln 4; 8 pairs that differ by 1, over 2 x 16 x 1/2
        ([1.0, 1.0, 0.0, 0.0], 0.5, 0.5, 0.5, 0.5),
    ],
)
def test_uniformity_by_hand(
    rates: list[float], entropy: float, gini: float, silent: float, rate: float
) -> None:
    found = fields.uniformity(np.array(rates))
    expected = {"entropy": entropy, "gini": gini, "silent": silent, "rate": rate}
    assert found == pytest.approx(expected, abs=1e-12)


def test_uniformity_of_silence_and_nonsense() -> None:
    found = fields.uniformity(np.zeros(3))
    assert math.isnan(found["entropy"])
    assert math.isnan(found["gini"])
    assert (found["silent"], found["rate"]) == (1.0, 0.0)
    for bad in (np.ones(1), np.ones((2, 2)), np.array([1.0, -1.0]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="rates must be"):
            fields.uniformity(bad)


def test_input_rates_by_hand() -> None:
    """Three fields at -3, 0, 3 with std 3: activations 1, e^-1/2, e^-2 for an observation of -3."""
    encoder = PopulationEncoder(1, 5, EncoderConfig(pop_size=3, std=3.0))
    # 5 steps of 1, 0.607 and 0.135 pass 0.999 five, three and no times; for 0: 0.607, 1, 0.607.
    seen = torch.tensor([[-3.0], [0.0]])
    np.testing.assert_allclose(fields.input_rates(encoder, seen), [0.8, 0.8, 0.3])


def test_grids() -> None:
    assert len(fields.cells("cross")) == 7
    assert len(set(fields.cells("full"))) == 16
    assert set(fields.cells("cross")) < set(fields.cells("full"))
    for size in fields.SIZES:
        std = fields.WIDTHS[fields.DEFAULT_WIDTH] * fields.spacing(size)
        assert std == pytest.approx(EncoderConfig(pop_size=size).initial_std)
    args = studies.parse(["fields", "--env", "Hopper-v4", "--seeds", "4"])
    todo = fields.trainings(args)
    assert len(todo) == len({training.name for training in todo}) == 7
    assert todo[0].parameters()["policy_kwargs"]["net_arch"] == [256, 256]  # the file's
    assert len(arithmetic.trainings(studies.parse(["arithmetic"]))) == 15


RECALIBRATION = "sb3_spiking.batch_norm.RecalibrationCallback"


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (None, RECALIBRATION),
        (RECALIBRATION, None),
        ([{RECALIBRATION: {"every": 100}}], None),
        ("other.Callback", ["other.Callback", RECALIBRATION]),
        ({"other.Callback": {"n": 1}}, [{"other.Callback": {"n": 1}}, RECALIBRATION]),
    ],
)
def test_batch_normalization_brings_its_callback(
    callback: Any, expected: Any, tmp_path: Path
) -> None:
    config = tmp_path / "td3.yml"
    config.write_text(
        yaml.safe_dump({"Pendulum-v1": {} if callback is None else {"callback": callback}})
    )
    normed = a_training(config=str(config), policy_kwargs={"batch_norm": True})
    assert normed.parameters().get("callback") == expected
    shown = [word for word in normed.command(tmp_path) if word.startswith("callback:")]
    assert shown == ([] if expected is None else [f"callback:{expected!r}"])
    assert "callback" not in a_training(config=str(config)).parameters()


def test_parameters_come_from_the_file(tmp_path: Path) -> None:
    config = tmp_path / "td3.yml"
    config.write_text(
        "Pendulum-v1:\n  learning_starts: 70\n"
        '  policy_kwargs: "dict(net_arch=[5], spike_steps=2)"\n'
    )
    spiking = a_training(config=str(config), steps=900, policy_kwargs={"spike_steps": 3})
    assert spiking.parameters() == {
        "policy": "SpikingPopPolicy",
        "policy_kwargs": {"net_arch": [5], "spike_steps": 3},
        "learning_starts": 70,
        "buffer_size": 900,
    }
    alone = a_training(config=str(config), inherits=False)
    assert alone.parameters()["policy_kwargs"] == {"net_arch": [8]}
    dense = a_training(config=str(config), steps=500, dense=True)
    assert dense.parameters()["policy_kwargs"] == {"net_arch": [8]}
    assert dense.parameters()["learning_starts"] == 50
    assert "--dense" in dense.command(tmp_path)
    with pytest.raises(ValueError, match="env must be in"):
        a_training(env="Hopper-v4", config=str(config)).parameters()


def test_settings_hold_what_the_file_adds(tmp_path: Path) -> None:
    """A result is not taken for one of another learning rate."""
    config = tmp_path / "td3.yml"
    found = []
    for rate, steps in ((0.1, 10), (0.1, 20), (0.2, 10)):
        entry = {"n_timesteps": steps, "learning_rate": rate, "policy": "x", "learning_starts": 5}
        config.write_text(json.dumps({"Pendulum-v1": entry}))
        found.append(a_training(config=str(config)).settings())
    assert found[0] == found[1] != found[2]
    assert found[2]["file"] == {"learning_rate": 0.2}


# What stands in for RL Zoo: writes what a finished training leaves.
FINISH = """
import pathlib, sys
run = pathlib.Path(sys.argv[1], "td3", "Pendulum-v1_1")
run.mkdir(parents=True)
(run / "distributed.json").write_text("{}")
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(Training, "command", lambda self, out: ["-c", code, str(self.folder(out))])


def test_a_training_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, FINISH)
    training = a_training()
    seen: list[Path] = []

    def look(_training: Training, run: Path) -> dict[str, Any]:
        seen.append(run)
        return {"mean": 7.0}

    for _ in range(2):
        assert work(training, tmp_path, look, time.time() + 100.0)
    assert seen == [tmp_path / "Pendulum-v1_200" / "cell_seed0" / "td3" / "Pendulum-v1_1"]
    result = json.loads(training.result(tmp_path).read_text())
    assert result["settings"] == training.settings()
    assert result["mean"] == 7.0
    assert result["seconds"] > 0.0
    assert result["command"][:2] == ["python", "-c"]
    assert len(result["commits"]) == 1
    other = a_training(seed=1)
    changed = a_training(policy_kwargs={"net_arch": [9]})
    with pytest.raises(ValueError, match=r"made with other settings \(parameters is"):
        work(changed, tmp_path, look, time.time() + 100.0)
    with pytest.raises(ValueError, match="made with other settings"):
        lists.read([changed], tmp_path)
    assert lists.read([training, training, other], tmp_path) == {"cell": [result]}
    with pytest.raises(FileNotFoundError, match="no training of this list"):
        lists.read([other], tmp_path)


def test_a_failed_or_stopped_training_has_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(_training: Training, _run: Path) -> dict[str, Any]:
        raise AssertionError

    training = a_training()
    stand_in(monkeypatch, "raise SystemExit(3)")
    assert not work(training, tmp_path, never, time.time() + 100.0)
    assert "exit 3, see" in capsys.readouterr().err
    stand_in(monkeypatch, "import time; time.sleep(100)")
    assert work(training, tmp_path, never, time.time())
    parts = (training.folder(tmp_path) / "parts.jsonl").read_text().splitlines()
    # A line before each start, so that a killed one is not lost, and one at its end.
    assert ["seconds" in json.loads(part) for part in parts] == [False, True] * 2
    assert not training.result(tmp_path).exists()
    with pytest.raises(ValueError, match=r"other settings \(parameters is"):
        work(a_training(policy_kwargs={}), tmp_path, never, 0.0)


@pytest.mark.parametrize("module", [studies, energy_curve])
def test_a_list_that_is_stopped_before_its_first_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: Any
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    study = ["fields"] if module is studies else ["--png", str(tmp_path / "curve.png")]
    words = [*study, "--env", "Hopper-v4", "--out", str(tmp_path)]
    module.main([*words, "--minutes", "0"])  # no exit with an error
    assert capsys.readouterr().out == "nothing done yet; the same command goes on\n"
    # Further processes that did nothing and did not fail.
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    module.main([*words, "--jobs", "2"])
    assert "nothing done yet" in capsys.readouterr().out
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(SystemExit, match="1"):
        module.main([*words, "--jobs", "2"])
    with pytest.raises(FileNotFoundError, match="start it without --table"):
        module.main([*words, "--table"])


def test_the_curve_is_not_drawn_before_its_reference_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    picture = tmp_path / "curve.png"
    words = ["--minutes", "0", "--out", str(tmp_path), "--png", str(picture)]
    args = energy_curve.parse(words)
    small = next(one for one in energy_curve.trainings(args) if one.name == "dense-16")
    result = {"settings": small.settings(), "mean": 1.0, "operations": an_energy(4.0)}
    small.result(tmp_path).parent.mkdir()
    small.result(tmp_path).write_text(json.dumps(result))
    energy_curve.main(words)
    text = capsys.readouterr().out
    assert "| dense-16 |" in text
    assert f"no {picture} yet: it needs dense-256" in text
    assert not picture.exists()
    # A process of --jobs leaves the table to the one that started it.
    energy_curve.main([*words, "--worker"])
    assert capsys.readouterr().out == ""
    # No more of the list will bring it.
    for further in (["--table"], ["--actors", "dense-16"]):
        with pytest.raises(ValueError, match="ratios need dense-256"):
            energy_curve.main([*words, *further])


def test_played_episodes_and_their_operations() -> None:
    model = TD3(
        "SpikingPopPolicy", "Pendulum-v1", seed=0, buffer_size=1, policy_kwargs={"net_arch": [8]}
    )
    played = measure.play(model, "Pendulum-v1", episodes=2, seed=5)
    assert played.lengths == (200, 200)
    assert played.obs.shape == (400, 3)
    again = measure.play(model, "Pendulum-v1", episodes=1, seed=6)
    assert again.returns == played.returns[1:]
    found = measure.operations(measure.count(played.actor, played.obs))
    price = DEFAULT_COSTS.energy_nj(found["accumulates"], found["multiply_accumulates_all"])
    assert found["energy_nj_all_products"] == pytest.approx(price)
    assert found["uncounted"] == []


@pytest.mark.parametrize("name", list(energy_actors.ACTORS))
@pytest.mark.parametrize("firing", [0.0, 1.0])
def test_costs_on_paper_are_those_counted(name: str, firing: float) -> None:
    actor = energy_actors.ACTORS[name]
    obs = torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    network = energy_actors.untrained(actor, obs, 3)
    if isinstance(network, PopulationActor):
        for layer in network.mlp.layers():  # so that all neurons fire at each step, or none
            torch.nn.init.constant_(layer.bias, 1e3 if firing else -1e3)
    counted = measure.count(network, obs).with_zeros()
    rates = energy_actors.Rates(counted.firing_rates.get("encoder", 0.0), firing)
    adds, multiply = energy_actors.operations(actor, 11, 3, rates)
    assert counted.accumulates == pytest.approx(adds)
    assert counted.multiply_accumulates == pytest.approx(multiply)


def test_an_analog_encoder_on_paper() -> None:
    actor = energy_actors.ACTORS["s32-t3"].variant("analog", {"encoder": "analog"})
    obs = torch.randn(20, 11, generator=torch.Generator().manual_seed(0))
    found = energy_actors.cost(actor, obs, 3, [0.2])
    # normalizer, fields, first layer
    assert found.counted.with_zeros().multiply_accumulates == 11 + 2 * 55 + 55 * 32
    adds, _ = energy_actors.operations(actor, 11, 3, energy_actors.Rates(0.0, 0.2))
    assert adds == pytest.approx(3 * 0.2 * (32 * 32 + 32 * 15 + 15))


def test_a_budget_brings_its_callback() -> None:
    words = ["--actors", "bn256-t5-72k-p0.001", "bn160-t5", "--seeds", "0"]
    budgeted, plain = energy_curve.trainings(energy_curve.parse(words))
    recalibration = "sb3_spiking.batch_norm.RecalibrationCallback"
    path = "sb3_spiking.synops_budget.SynopsBudgetCallback"
    expected = [{path: {"budget": energy_actors.BUDGET_22}}, recalibration]
    assert budgeted.parameters()["callback"] == expected
    assert budgeted.settings()["parameters"]["callback"] == expected
    assert plain.parameters()["callback"] == recalibration
    module, name = path.rsplit(".", 1)
    getattr(importlib.import_module(module), name)(**expected[0][path])  # type: ignore[index]


def test_variants() -> None:
    chosen = [energy_actors.ACTORS["direct-t3"], energy_actors.ACTORS["dense-16"]]
    found = energy_curve.with_variants(chosen, [("wide", '{"surrogate_width": 2.0}')])
    assert [actor.name for actor in found] == ["direct-t3", "dense-16", "direct-t3-wide"]
    assert found[2].policy_kwargs()["surrogate_width"] == 2.0
    assert "surrogate_width" not in found[0].policy_kwargs()
    twice = [("p", '{"spike_steps": 2}'), ("p", '{"spike_steps": 4}')]
    with pytest.raises(ValueError, match="a suffix of its own"):
        energy_curve.with_variants(chosen, twice)
    for text, error in (("[]", ValueError), ("{", ValueError), ('{"x": 1}', TypeError)):
        with pytest.raises(error):
            energy_curve.with_variants(chosen, [("x", text)])
    words = ["--actors", "direct-t3", "--variant", "p1", '{"synops_penalty": 0.01}']
    assert [actor.name for actor in energy_curve.parse(words).actors] == [
        "direct-t3", "direct-t3-p1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [actor.name for actor in energy_actors.SPIKING])
def test_costs_are_those_of_what_is_trained(name: str) -> None:
    """The options behind --costs are those of the model that the training's parameters make."""
    args = energy_curve.parse(["--actors", name, "--env", "Pendulum-v1"])
    (training, *_) = energy_curve.trainings(args)
    given = training.parameters()
    model = TD3(given["policy"], "Pendulum-v1", buffer_size=1, policy_kwargs=given["policy_kwargs"])
    (actor,) = args.actors
    assert isinstance(model.policy, SpikingTD3Policy)
    assert actor.options() == model.policy.options


def test_what_counting_leaves_out() -> None:
    """Two observations of 5 fields, 7 and 2 * 3 neurons, 4 steps, a membrane readout of 2."""
    encoder, decoder = EncoderConfig(pop_size=5), DecoderConfig(pop_size=3, kind="membrane")
    config = PopulationActorConfig(
        hidden_sizes=(7,), spike_steps=4, encoder=encoder, decoder=decoder, neuron=LIFConfig()
    )
    actor = PopulationActor(2, 2, config)
    assert measure.left_out(actor) == 10 * 10 + 4 * (10 + 7 + 6 + 2)
    currents = dataclasses.replace(config, neuron=CurrentLIFConfig(), decoder=DecoderConfig())
    assert measure.left_out(PopulationActor(2, 2, currents)) == 10 * 10 + 4 * (10 + 2 * (7 + 20))
    assert measure.left_out(torch.nn.Linear(3, 4)) == 0.0


def test_the_cost_table(capsys: pytest.CaptureFixture[str]) -> None:
    energy_curve.main(["--env", "Pendulum-v1", "--costs", "--actors", "direct-t3", "dense-16"])
    text = capsys.readouterr().out
    # 3 x 16 + 16 x 16 + 16 x 1 products
    assert "| dense-16         |                  320 |" in text
    assert "| direct-t3 " in text
    for env, message in (("CartPole-v1", "CartPole-v1 has Discrete"), ("NoSuch-v0", "'NoSuch-v0'")):
        with pytest.raises(ValueError, match=f"--env must .*{message}"):
            energy_curve.main(["--env", env, "--costs"])


def an_energy(energy: float, names: Iterable[str] = goal.CHARGES.values()) -> dict[str, float]:
    """All products, zeros skipped, exponentials and membranes too."""
    return dict(zip(names, (energy, energy / 2.0, energy + 1.0), strict=True))


def a_point(name: str, mean: float, energy: float) -> goal.Point:
    energies = an_energy(energy, goal.CHARGES)
    return goal.Point(
        name, not name.startswith("dense"), (mean - 1.0, mean + 1.0), (0, 1), energies
    )  # fmt: skip


def test_the_goal(tmp_path: Path) -> None:
    dense = [a_point("dense-256", 100.0, 300.0), a_point("dense-64", 96.0, 50.0)]
    dense.append(a_point("dense-16", 94.0, 1.0))  # keeps too little
    near, small = a_point("s64", 97.0, 12.0), a_point("s32", 95.0, 10.0)
    found = goal.verdict([*dense, near], "all products")
    assert (found.base, found.best) == (dense[1], near)
    assert found.limit == pytest.approx(11.0)
    assert not found.met
    assert goal.verdict([*dense, near, small], "all products").met
    assert "no spiking actor keeps 95%: not met" in goal.verdict(dense, "zeros skipped").text
    text = goal.markdown([*dense, near, small])
    assert "s32 costs 10.00 nJ, 20%: met." in text
    assert "| dense-256 | 100.0 [99.0, 101.0] (2) | 1 | 300.00 | 150.00 | 301.00 |" in " ".join(
        text.split()
    )
    with pytest.raises(ValueError, match="ratios need dense-256"):
        goal.full_return(dense[1:])
    with pytest.raises(ValueError, match="says nothing"):
        goal.full_return([a_point("dense-256", -100.0, 300.0)])
    assert "No verdict: ratios need dense-256" in goal.markdown(dense[1:])
    text = goal.markdown([*dense, near, small], ["dense-32", "direct-t3"])
    assert text.endswith("No verdict: no training is done of dense-32, direct-t3.")
    stopped = [*dense, near, dataclasses.replace(small, seeds=(0,))]
    assert "No verdict: actors have different seeds, dense-256: 0 1, " in goal.markdown(stopped)
    pytest.importorskip("matplotlib")
    for found_so_far in (stopped, [*dense, near, small]):
        goal.draw(found_so_far, "Hopper-v4", tmp_path / "images" / "curve.png")
        assert (tmp_path / "images" / "curve.png").read_bytes()[1:4] == b"PNG"
        (tmp_path / "images" / "curve.png").unlink()


def test_points_are_means_over_seeds() -> None:
    results = [
        {
            "settings": {"dense": True, "seed": seed},
            "mean": mean,
            "operations": an_energy(energy),
        }
        for seed, mean, energy in ((0, 1.0, 4.0), (1, 3.0, 6.0))
    ]
    (point,) = goal.points({"dense-256": results})
    assert (point.mean, point.spiking, point.seeds) == (2.0, False, (0, 1))
    assert point.energies == an_energy(5.0, goal.CHARGES)


def test_gradient_norms_of_a_training_that_was_stopped(tmp_path: Path) -> None:
    parts = (
        ("TD3_2", (5, 15, 24, 28, 38), 1.0),
        ("TD3_2", (23, 29), 100.0),  # goes on in the same folder
        ("TD3_10", (25, 95, 100), 10.0),
    )
    for folder, steps, scale in parts:
        with SummaryWriter(str(tmp_path / folder)) as writer:
            for step in steps:
                writer.add_scalar("train/actor_grad_norm", scale * step, step)
    found = arithmetic.gradient_norms(tmp_path, 0, 100)
    np.testing.assert_allclose(found["actor"], [5, 15, (2_300 + 250) / 2, *[np.nan] * 6, 975])
    assert np.isnan(found["critic"]).all()
    # Tenths of the steps from 10 on: of 9 each.
    later = arithmetic.gradient_norms(tmp_path, 10, 100)
    np.testing.assert_allclose(later["actor"], [15, (2_300 + 250) / 2, *[np.nan] * 7, 975])
    with pytest.raises(FileNotFoundError, match="no TensorBoard files"):
        arithmetic.gradient_norms(tmp_path / "none", 0, 100)


def test_costs_of_an_arithmetic() -> None:
    for matmul, name in arithmetic.FORMATS.items():
        # 10 accumulates in its format, 1 multiply-accumulate in float32
        expected = (10.0 * COSTS[name].accumulate_pj + DEFAULT_COSTS.multiply_accumulate_pj) / 1e3
        assert arithmetic.own_costs(matmul).energy_nj(10.0, 1.0) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("study", ["fields", "arithmetic", "curve"])
def test_a_real_training(study: str, tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    words = ["--env", "Pendulum-v1", "--steps", "600", "--seeds", "0", "--out", str(tmp_path)]
    todo, look = {
        "fields": lambda: (fields.trainings(studies.parse(["fields", *words])), fields.measure),
        "arithmetic": lambda: (
            arithmetic.trainings(studies.parse(["arithmetic", *words])),
            arithmetic.measure,
        ),
        "curve": lambda: (
            energy_curve.trainings(energy_curve.parse([*words, "--actors", "dense-16"])),
            energy_curve.measure,
        ),
    }[study]()
    training = todo[0]
    assert work(training, tmp_path, look, time.time() + 1e6)
    result = json.loads(training.result(tmp_path).read_text())
    assert result["evaluations"]["steps"] == list(range(60, 601, 60))
    assert len(result["returns"]) == measure.EPISODES
    assert result["operations"]["energy_nj_all_products"] > 0.0
    found = lists.read(todo, tmp_path)
    if study == "fields":
        assert 0.0 < result["fields"]["entropy"] < 1.0
        assert fields.markdown(found).count("\n") == 2
    elif study == "arithmetic":
        norms = result["gradient_norms"]
        # Three episodes: a norm is logged at the end of those in which it learned.
        assert all(
            np.isfinite(np.array(norms[part], float)).sum() >= 2 for part in arithmetic.PARTS
        )
        assert "float32, critic" in arithmetic.markdown(found)
    else:
        assert result["operations"]["multiply_accumulates_all"] == 320
        assert goal.points(found)[0].spiking is False
