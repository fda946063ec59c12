"""The spike doctor names planted faults in transformers, and none in sound ones."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.preprocessing import StandardObservationScaler

from d3rlpy_spiking.cli import main
from d3rlpy_spiking.cli.data import load_file
from d3rlpy_spiking.monitor import Finding, examine
from tests.d3rlpy_spiking import cli_common, qlearning
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    DISCRETE,
    LENGTH,
    build,
    encoder,
    is_discrete,
    make_config,
    make_dataset,
)
from tests.d3rlpy_spiking.planted import PLANTED, plant
from tests.d3rlpy_spiking.test_training import torch_batch

# The limits were chosen with seeds below 1,000.
PLANTS = range(5000, 5028)
SOUND = range(6000, 6016)
NORMS = ("ptbn", "tdbn", "tdln")
ATTENTIONS = ("pssa", "tssa", "sssa", "softmax")


def drawn(rng: random.Random, **changes: Any) -> Any:
    """A network of random kind and size."""
    fields = {
        "attention": rng.choice(ATTENTIONS),
        "normalization": rng.choice(NORMS),
        "num_layers": rng.choice((1, 2, 3)),
        "encoder_factory": encoder(rng.choice((16, 32, 64))),
        "monitor_every": 0,
    }
    return build(rng.choice(sorted(CONFIGS)), **(fields | changes))


def data_of(algo: Any, seed: int) -> Any:
    return make_dataset(is_discrete(algo), seed=seed)


def named(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.fault, finding.layer) for finding in findings]


@pytest.mark.parametrize("seed", PLANTS)
def test_planted_faults_are_named(seed: int) -> None:
    rng = random.Random(seed)
    kind = sorted(PLANTED)[seed % len(PLANTED)]
    algo = drawn(rng)
    where = plant(algo, kind, rng)
    findings = examine(algo, data_of(algo, seed))
    assert named(findings) == [(PLANTED[kind], where)]
    assert findings[0].remedy
    assert "actor_lr_scale" not in str(findings[0])  # a name of the other package


@pytest.mark.parametrize("seed", PLANTS[:7])
def test_planted_faults_are_named_in_trained_networks(seed: int) -> None:
    rng = random.Random(seed)
    kind = sorted(PLANTED)[seed % len(PLANTED)]
    algo = drawn(rng, num_layers=2)
    data = data_of(algo, seed)
    for _ in range(10):
        algo.update(data.sample_trajectory_batch(16, length=LENGTH))
    where = plant(algo, kind, rng)
    assert named(examine(algo, data)) == [(PLANTED[kind], where)]


@pytest.mark.parametrize("seed", SOUND)
def test_nothing_is_found_in_fresh_networks(seed: int) -> None:
    rng = random.Random(seed)
    algo = drawn(rng)
    assert named(examine(algo, data_of(algo, seed))) == []


@pytest.mark.parametrize(
    ("name", "attention"),
    [*(("dsformer", kind) for kind in ATTENTIONS), ("sdt", "pssa"), ("discrete_strl", "softmax")],
)
def test_nothing_is_found_while_and_after_training(name: str, attention: str) -> None:
    algo = build(name, attention=attention, ptbn_steps=10, encoder_factory=encoder(32))
    data = data_of(algo, 7)
    for step in range(24):
        algo.update(data.sample_trajectory_batch(16, length=LENGTH))
        if step in (0, 4, 11, 23):
            assert named(examine(algo, data)) == []


def test_the_release_s_surrogate_behind_attention_is_a_fault() -> None:
    algo = build("dsformer", attention="tssa", mix_surrogate_width=1.0)
    findings = examine(algo, data_of(algo, 0))
    assert named(findings) == [
        ("vanishing_surrogate", f"blocks.{i}.attention.mix_neuron") for i in (0, 1)
    ]
    assert "mix_surrogate_width" in findings[0].remedy


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_an_embedding_that_says_nothing_is_named_and_not_its_victims(attention: str) -> None:
    algo = build("dsformer", attention=attention)
    with torch.no_grad():
        algo.impl.network.embed_ln.weight.zero_()
    findings = examine(algo, data_of(algo, 0))
    assert named(findings) == [("deaf_layer", "embedding")]
    assert "layer norm" in findings[0].remedy


@pytest.mark.parametrize("block", [0, 1])
def test_values_that_are_all_alike_leave_the_neurons_behind_attention_unnamed(block: int) -> None:
    algo = build("dsformer", normalization="tdbn")
    attention = algo.impl.network.backbone.transformer.blocks[block].attention
    neuron = attention.input_neuron
    neuron.config = dataclasses.replace(neuron.config, v_threshold=100.0)
    with torch.no_grad():
        for layer in (attention.query, attention.key, attention.value):
            layer.current.norm.bias.fill_(0.4)  # fires from the second step on, for every token
    findings = examine(algo, data_of(algo, 0))
    assert named(findings) == [("high_threshold", f"blocks.{block}.attention.input_neuron")]


@pytest.mark.parametrize("name", ["sdt", "dsformer", "tacr"])
def test_actions_at_their_bounds_are_a_fault_that_may_pass(name: str) -> None:
    algo = build(name)
    head = algo.impl.network.head
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1e3, -1e3]))
    (finding,) = examine(algo, data_of(algo, 0))
    assert finding.fault == "deaf_readout"
    assert algo.impl.network.get_submodule(finding.layer) is head
    assert not finding.lasting
    assert "at their bounds" in finding.message
    assert "learning rate" in finding.remedy
    with torch.no_grad():
        head.bias[1] = 0.0  # one action moves
    assert named(examine(algo, data_of(algo, 0))) == []


def test_a_batch_serves_as_well_and_draws_nothing() -> None:
    algo = build("dsformer")
    where = plant(algo, "saturated", random.Random(1))
    data = data_of(algo, 0)
    batch = data.sample_trajectory_batch(32, length=LENGTH)
    d3rlpy.seed(1)
    expected = (torch.rand(1), np.random.rand())  # noqa: NPY002  # d3rlpy's generator
    d3rlpy.seed(1)
    assert named(examine(algo, batch)) == named(examine(algo, data)) == [("saturated_layer", where)]
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_q_learning_algorithms_are_examined() -> None:
    d3rlpy.seed(0)
    algo = qlearning.make("IQL")
    qlearning.train(algo)
    data = make_dataset(discrete=False)
    assert named(examine(algo, data)) == []
    assert named(examine(algo, data.sample_transition_batch(64))) == []
    policy = algo.impl.modules.policy
    with torch.no_grad():
        policy._mu.weight[1] *= 1e-6
        algo.impl.modules.value_func._encoder.body.mlp.linears[0].bias.fill_(-9.0)
    assert named(examine(algo, data)) == [
        ("dead_layer", "value_func._encoder.body.mlp.neurons.0"),
        ("deaf_readout", "policy._mu"),
    ]


def test_scalers_are_used() -> None:
    d3rlpy.seed(0)
    algo = qlearning.make("BC", observation_scaler=StandardObservationScaler())
    data = make_dataset(discrete=False)
    for episode in data.episodes:
        np.multiply(episode.observations, 100.0, out=episode.observations)
    algo.build_with_dataset(data)
    with pytest.raises(ValueError, match="observation_scaler of the algorithm has not seen data"):
        examine(algo, data)
    algo.config.observation_scaler.fit_with_trajectory_slicer(data.episodes, data.trajectory_slicer)
    assert named(examine(algo, data)) == []
    bare = qlearning.make("BC")
    bare.build_with_dataset(data)
    assert named(examine(bare, data)) == [("encoder_range", "imitator._encoder.body.encoder")]


def test_what_cannot_be_examined_is_named() -> None:
    data = make_dataset(discrete=False)
    with pytest.raises(ValueError, match="not built yet"):
        examine(CONFIGS["dsformer"]().create(), data)
    dense = d3rlpy.algos.DecisionTransformerConfig().create()
    dense.create_impl((5,), 2)
    with pytest.raises(ValueError, match="holds no spiking network"):
        examine(dense, data)
    algo = build("dsformer")
    with pytest.raises(TypeError, match="ReplayBuffer or a batch of trajectories"):
        examine(algo, [1, 2])
    with pytest.raises(ValueError, match="at least 64 environment steps"):
        examine(algo, data, samples=2)
    with pytest.raises(ValueError, match="samples"):
        examine(algo, data, samples=0)
    padding = torch_batch(algo)
    padding.masks.zero_()
    with pytest.raises(ValueError, match="at least 64 environment steps to judge by, got 0"):
        examine(algo, padding)
    few = make_dataset(discrete=False, episodes=1, steps=22)
    with pytest.raises(ValueError, match="at least 64 environment steps"):
        examine(build("sdt"), few.sample_trajectory_batch(4, length=LENGTH))
    with pytest.raises(ValueError, match="observations of shape"):
        examine(build("dsformer", (4,)), data)
    with pytest.raises(ValueError, match="discrete"):
        examine(build(next(iter(DISCRETE))), data)
    with pytest.raises(ValueError, match="max_timestep"):
        examine(build("sdt", max_timestep=20), data)
    data.episodes[3].observations[5, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        examine(algo, data)


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cli_common.write_npz(tmp_path_factory.mktemp("data") / "p.npz", 3, discrete=False)


def saved(folder: Path, kind: str | None = None) -> tuple[Path, str]:
    d3rlpy.seed(0)
    algo = CONFIGS["dsformer"](
        context_size=LENGTH, num_layers=2, encoder_factory=encoder(16)
    ).create()
    algo.create_impl((3,), 1)
    where = "" if kind is None else plant(algo, kind, random.Random(4))
    algo.save(str(folder / "model.d3"))
    return folder / "model.d3", where


def test_the_command_finds_nothing(
    tmp_path: Path, pendulum: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = saved(tmp_path)
    assert main(["doctor", str(path), "--dataset", pendulum]) == 0
    out = capsys.readouterr().out
    assert "no fault found" in out
    assert out.count("blocks.") == 14
    assert "theta is 1.00" in out


@pytest.mark.parametrize(
    ("steps", "normalization", "note"),
    [
        (12, "ptbn", "note: batch norms have not seen 50 batches yet, so"),  # theta is 0 by then
        (12, "tdbn", "note: batch norms have not seen 50 batches yet, so"),
        (52, "ptbn", None),
        (2, "tdln", None),
    ],
)
def test_the_command_says_which_statistics_it_looks_with(
    steps: int,
    normalization: str,
    note: str | None,
    tmp_path: Path,
    pendulum: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    d3rlpy.seed(0)
    algo = make_config("dsformer", normalization=normalization, ptbn_steps=5).create()
    algo.create_impl((3,), 1)
    data = load_file(Path(pendulum), False, None)
    for _ in range(steps):
        algo.update(data.sample_trajectory_batch(8, length=LENGTH))
    algo.save(str(tmp_path / "model.d3"))
    main(["doctor", str(tmp_path / "model.d3"), "--dataset", pendulum])
    out = capsys.readouterr().out
    assert "note:" not in out if note is None else note in out


@pytest.mark.parametrize("kind", ["saturated", "dead by bias", "nan", "deaf head"])
def test_the_command_names_fault_layer_and_remedy(
    kind: str, tmp_path: Path, pendulum: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, where = saved(tmp_path, kind)
    assert main(["doctor", str(path), "--dataset", pendulum, "--samples", "32"]) == 1
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith(PLANTED[kind]))
    assert line.startswith(f"{PLANTED[kind]} in {where}: ")
    assert any(where in row and PLANTED[kind] in row for row in out.splitlines() if row != line)


def test_usage_errors_end_with_2(
    tmp_path: Path, pendulum: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = saved(tmp_path)
    other = cli_common.write_npz(tmp_path / "other.npz", 4, discrete=False)
    wrong = {
        (str(tmp_path / "none.d3"), pendulum): "No such file",
        (str(path), str(tmp_path / "none.npz")): "none.npz",
        (str(path), other): "observations of shape",
        (str(path), "maze"): "run.json",
        (pendulum, pendulum): "damaged or no model",
    }
    for (model, dataset), text in wrong.items():
        assert main(["doctor", model, "--dataset", dataset]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert len(error.splitlines()) == 1
    assert main(["doctor", str(path)]) == 2
    assert main(["doctor", str(path), "--dataset", pendulum, "--samples", "0"]) == 2


def test_a_run_of_the_maze_is_examined_on_its_mazes(tmp_path: Path) -> None:
    config = cli_common.write(tmp_path, cli_common.MAZE)
    assert cli_common.train(tmp_path, config, "maze") == 0
    assert main(["doctor", str(tmp_path / "tiny_0" / "model.d3"), "--dataset", "maze"]) == 0
