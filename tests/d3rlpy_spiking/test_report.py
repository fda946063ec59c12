"""`python -m d3rlpy_spiking report`: a page about a transformer and its dense twin."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from d3rlpy.algos import DecisionTransformerConfig, TransformerInput
from d3rlpy.models import VectorEncoderFactory

from d3rlpy_spiking import (
    DSFormerConfig,
    PopulationSpikingEncoderFactory,
    SpikingDecisionTransformerConfig,
)
from d3rlpy_spiking.cli import main
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.runs import load_algorithm
from d3rlpy_spiking.report.play import batches, play
from d3rlpy_spiking.report.twin import size_text, spikes, untrained_twin
from policies.energy.meter import EnergyMeter
from tests.d3rlpy_spiking.cli_common import CONTINUOUS, MAZE, train, write, write_npz

DENSE = CONTINUOUS.replace("dsformer", "decision_transformer").replace("  ptbn_steps: 2\n", "")


@pytest.fixture(autouse=True)
def no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking the machine's counters up takes seconds."""
    monkeypatch.setattr("policies.report.run.EnergyMeter", lambda **_: EnergyMeter(enabled=False))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A spiking and a dense transformer of Pendulum, and one of the maze, barely trained."""
    folder = tmp_path_factory.mktemp("models")
    data = write_npz(folder / "pendulum.npz", 3, discrete=False)
    assert train(folder, write(folder, CONTINUOUS, "spiking"), data, "--steps", "10") == 0
    assert train(folder, write(folder, DENSE, "dense"), data, "--steps", "10") == 0
    assert train(folder, write(folder, MAZE, "maze"), "maze") == 0
    return {name: folder / f"{name}_0" / "model.d3" for name in ("spiking", "dense", "maze")}


def report(*args: Any) -> int:
    return main(["report", *(str(arg) for arg in args)])


def returns(content: dict[str, Any], name: str) -> list[float]:
    values: list[float] = content[name]["returns"]["values"]
    return values


def test_page_of_a_model_and_its_dense_twin(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pendulum = ("--env", "Pendulum-v1", "--target-return", "-200", "--episodes", "2")
    args = (*pendulum, "--seed", "3", "--out", tmp_path / "page")
    assert report(models["spiking"], "--dense", models["dense"], *args) == 0
    assert capsys.readouterr().out.startswith((tmp_path / "page" / "report.md").read_text())
    content = json.loads((tmp_path / "page" / "report.json").read_text())
    # The same episodes as `evaluate` plays.
    for name, model in (("spiking", models["spiking"]), ("dense", models["dense"])):
        file = tmp_path / f"{name}.json"
        assert (
            main(["evaluate", "--model", str(model), *pendulum, "--seed", "3", "--json", str(file)])
            == 0
        )
        assert returns(content, name) == json.loads(file.read_text())["returns"]
    assert content["spiking"]["totals"]["accumulates"] > 0
    assert content["dense"]["totals"]["accumulates"] == 0
    assert content["spiking"]["uncounted"] == content["dense"]["uncounted"] == []
    # One block of width 8 on 4 tokens at 4 spike steps; Linear layers: 4 of 8 x 8, 2 of 8 x 32.
    linear = sum(
        layer["dense"]
        for layer in content["spiking"]["layers"]
        if "blocks" in layer["name"] and layer["kind"] == "linear"
    )
    assert linear == 4 * 4 * (4 * 8 * 8 + 2 * 8 * 32)
    assert content["break_even"]["energy ratio"]["all products"] > 0
    assert content["alike"]
    # Batch norms are folded, and layer norms cost.
    norms = [layer for layer in content["spiking"]["layers"] if layer["kind"] == "norm"]
    assert not any("blocks" in layer["name"] for layer in norms)
    assert content["spiking"]["latency"]["runner"].startswith("kernel ")
    assert content["dense"]["latency"]["runner"] == "PyTorch"
    assert (tmp_path / "page" / "report.html").exists()


def test_counts_are_of_full_contexts_that_were_played(models: dict[str, Path]) -> None:
    algo = load_algorithm(models["spiking"], "cpu")
    env = gym.make("Pendulum-v1")
    run, contexts, stream = play(algo, env, -200.0, 1, 5)
    env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
    assert run.lengths == (200.0,)
    # 197 of 200 decisions had four steps behind them.
    assert len(contexts) == 197
    assert {inpt.length for inpt in contexts} == {4}
    assert len(stream) == 200
    assert sum(reward for _, reward in stream) == pytest.approx(run.returns[0], rel=0.05)
    (batch, *_) = batches(algo, contexts)
    assert batch.observations.shape == (50, 4, 3)
    assert batch.masks.min() == 1.0
    first = contexts[0]
    scaled = algo.config.observation_scaler.transform_numpy(np.asarray(first.observations))
    np.testing.assert_allclose(batch.observations[0].numpy(), scaled, rtol=1e-5)
    short = TransformerInput(
        first.observations[:2], first.actions[:2], first.rewards[:2], first.returns_to_go[:2],
        first.timesteps[:2],
    )  # fmt: skip
    (padded,) = batches(algo, [short])
    assert padded.masks.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_untrained_twin_of_the_maze(models: dict[str, Path], tmp_path: Path) -> None:
    args = ("--dataset", "maze", "--episodes", "1", "--out", tmp_path)
    assert report(models["maze"], *args) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["spiking"]["title"] == "STRL"
    assert content["dense"]["title"] == "dense DiscreteDecisionTransformer, untrained"
    assert "not known" in content["dense"]["returns"]["absent"]
    assert content["dense"]["totals"]["dense"] == content["dense"]["totals"]["multiply_accumulates"]
    assert any("wavefront planner without spikes" in note for note in content["notes"])


def test_twins_share_every_setting() -> None:
    encoder = VectorEncoderFactory([16])
    algo = SpikingDecisionTransformerConfig(
        num_layers=2, num_heads=2, context_size=5, encoder_factory=encoder
    ).create()
    algo.create_impl((3,), 2)
    twin, notes = untrained_twin(algo)
    assert notes == []
    assert isinstance(twin.config, DecisionTransformerConfig)
    assert not spikes(twin)
    for name in ("num_layers", "num_heads", "context_size", "encoder_factory", "max_timestep"):
        assert getattr(twin.config, name) == getattr(algo.config, name)
    coded = DSFormerConfig(
        num_layers=1, encoder_factory=PopulationSpikingEncoderFactory(hidden_units=[16])
    ).create()
    coded.create_impl((3,), 2)
    twin, notes = untrained_twin(coded)
    assert twin.config.encoder_factory == VectorEncoderFactory([16])
    assert "in place of a population-coded network" in notes[0]
    assert "three times as long" in notes[1]


def test_width_is_part_of_the_size() -> None:
    spiking = SpikingDecisionTransformerConfig(
        num_layers=1, context_size=5, encoder_factory=VectorEncoderFactory([16])
    ).create()
    dense = DecisionTransformerConfig(
        num_layers=1, context_size=5, encoder_factory=VectorEncoderFactory([8])
    ).create()
    for algo in (spiking, dense):
        algo.create_impl((3,), 2)
    twin, _ = untrained_twin(spiking)
    assert size_text(twin) == size_text(spiking)
    assert size_text(spiking).startswith("width: 16, layers: 1")
    assert size_text(dense).startswith("width: 8, layers: 1")


def test_rewards_that_are_not_finite_are_named(models: dict[str, Path]) -> None:
    class Broken(gym.RewardWrapper[Any, Any]):
        def reward(self, reward: Any) -> float:
            return float("nan")

    with pytest.raises(UsageError, match=r"gave the reward nan after 1 decisions .* seed 5"):
        play(load_algorithm(models["spiking"], "cpu"), Broken(gym.make("Pendulum-v1")), -2.0, 9, 5)


def test_what_is_wrong_is_named(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spiking, dense, maze = models["spiking"], models["dense"], models["maze"]
    (tmp_path / "text.d3").write_text("no model")
    env = ("--env", "Pendulum-v1", "--target-return", "-200")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((tmp_path / "none.d3", *env), "No such file"),
        ((tmp_path / "text.d3", *env), "damaged or no model of d3rlpy"),
        ((dense, *env), "holds a dense algorithm, DecisionTransformer; MODEL must be a spiking"),
        ((spiking, *env, "--dense", spiking), "holds a spiking algorithm, DSFormer"),
        ((spiking, *env, "--dense", tmp_path / "none.d3"), "No such file"),
        ((spiking, "--env", "Pendulum-v1"), "--env needs --target-return"),
        ((spiking,), "one of the arguments --env --dataset is required"),
        ((spiking, "--dataset", "maze"), "the mazes have observations of shape"),
        ((maze, "--dataset", "maze", "--target-return", "1"), "--target-return is for --env"),
        ((spiking, "--env", "CartPole-v1", "--target-return", "1"), "of its dataset"),
        ((spiking, "--env", "NoSuch-v0", "--target-return", "1"), "cannot be made"),
        ((spiking, *env, "--costs", "3nm"), "costs must be one of"),
        ((spiking, *env, "--out", tmp_path / "text.d3" / "page"), "cannot be written"),
    ]
    capsys.readouterr()
    for args, message in cases:
        assert report(*args) == 2, args
        shown = capsys.readouterr()
        assert shown.out == "", args
        assert message in shown.err, (args, shown.err)
        assert shown.err.count("\n") == 1, args
