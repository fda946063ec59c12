"""Faults planted in small actors are named, and nothing else is."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from policies.actor import PopulationActor
from policies.config import PopulationActorConfig
from policies.monitor import Finding, NetworkActivity, diagnose, probe
from policies.surrogate import Surrogate

SEEDS = range(50, 56)


def make(seed: int, hidden: tuple[int, ...] = (64, 48), normalize: bool = True) -> PopulationActor:
    torch.manual_seed(seed)
    return PopulationActor(
        5, 2, PopulationActorConfig(hidden_sizes=hidden, normalize=normalize)
    ).eval()


def findings(actor: PopulationActor, scale: float = 1.0) -> list[Finding]:
    obs = scale * torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    return diagnose(probe(actor, lambda: actor(obs)))


def named(actor: PopulationActor, scale: float = 1.0) -> set[tuple[str, str]]:
    return {(finding.fault, finding.layer) for finding in findings(actor, scale)}


@pytest.mark.parametrize("seed", SEEDS)
def test_sound(seed: int) -> None:
    assert named(make(seed)) == set()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_dead_and_saturated(seed: int, sign: int) -> None:
    actor = make(seed)
    layer = seed % 3
    linear: Any = actor.mlp.linears[layer]
    with torch.no_grad():
        linear.bias += sign * 8.0
    fault = "dead_layer" if sign < 0 else "saturated_layer"
    (found,) = findings(actor)
    assert (found.fault, found.layer) == (fault, f"mlp.neurons.{layer}")
    assert found.lasting


def test_a_quiet_layer_that_still_learns_may_recover() -> None:
    actor = make(0)
    linear: Any = actor.mlp.linears[1]
    with torch.no_grad():
        linear.weight.mul_(0.05)
        linear.bias.fill_(0.02)
    (found,) = findings(actor)
    assert (found.fault, found.lasting) == ("dead_layer", False)


@pytest.mark.parametrize("seed", SEEDS)
def test_high_threshold(seed: int) -> None:
    actor = make(seed)
    neuron: Any = actor.mlp.neurons[seed % 3]
    neuron.config = dataclasses.replace(neuron.config, v_threshold=20.0)
    assert named(actor) == {("high_threshold", f"mlp.neurons.{seed % 3}")}


def test_a_threshold_too_high_everywhere_is_named_where_it_begins() -> None:
    actor = make(0)
    for neuron in actor.mlp.neurons:
        changed: Any = neuron
        changed.config = dataclasses.replace(changed.config, v_threshold=30.0)
    assert named(actor) == {("high_threshold", "mlp.neurons.0")}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [1e-5, 1e5])
def test_vanishing_surrogate(seed: int, width: float) -> None:
    actor = make(seed)
    neuron: Any = actor.mlp.neurons[seed % 3]
    neuron.spike_fn = Surrogate("rectangle", width)
    assert named(actor) == {("vanishing_surrogate", f"mlp.neurons.{seed % 3}")}


@pytest.mark.parametrize("surrogate", ["sigmoid", "arctan", "triangle"])
def test_every_surrogate_is_sound_at_its_usual_width(surrogate: str) -> None:
    actor = make(1)
    for neuron in actor.mlp.neurons:
        changed: Any = neuron
        changed.spike_fn = Surrogate(surrogate, 1.0)
    assert named(actor) == set()


def test_encoder_that_misses_all() -> None:
    actor = make(3, normalize=False)
    assert named(actor) == set()
    assert named(actor, scale=100.0) == {("encoder_range", "encoder")}


def test_encoder_that_misses_one_dimension() -> None:
    actor = make(3, normalize=False)
    with torch.no_grad():
        actor.encoder.mean[2] += 40.0
    (found,) = findings(actor)
    assert found.fault == "encoder_range"
    assert "in dimension 2" in found.message


@pytest.mark.parametrize("seed", SEEDS)
def test_deaf_readout(seed: int) -> None:
    actor = make(seed)
    with torch.no_grad():
        actor.decoder.weight[seed % 2] *= 1e-6
    (found,) = findings(actor)
    assert (found.fault, found.layer) == ("deaf_readout", "decoder")
    assert f"value {seed % 2} of 2" in found.message


def test_a_population_that_stands_still_is_not_the_readouts_fault() -> None:
    actor = make(1)
    linear: Any = actor.mlp.linears[2]
    with torch.no_grad():
        linear.bias[:10] -= 9.0  # the ten neurons of the first action
    assert named(actor) == set()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan(value: float) -> None:
    actor = make(4)
    linear: Any = actor.mlp.linears[1]
    with torch.no_grad():
        linear.weight[0, 0] = value
    assert named(actor) == {("nan", "mlp.linears.1")}


def test_overflow_without_a_broken_weight_is_named() -> None:
    actor = make(4)
    linear: Any = actor.mlp.linears[1]
    with torch.no_grad():
        linear.weight.fill_(3e38)
    (found,) = findings(actor)
    assert found.fault == "nan"


def test_a_refusal_is_reported() -> None:
    (found,) = diagnose(NetworkActivity(failed="observations must be finite"))
    assert found.fault == "nan"
    assert "observations must be finite" in str(found)


def test_a_network_that_sees_one_thing_only_is_not_judged() -> None:
    actor = make(0)
    obs = torch.zeros(64, 5)
    assert diagnose(probe(actor, lambda: actor(obs))) == []


def test_a_finding_reads_as_one_line() -> None:
    actor = make(0)
    linear: Any = actor.mlp.linears[0]
    with torch.no_grad():
        linear.bias -= 9.0
    text = str(findings(actor)[0])
    assert text.startswith("dead_layer in mlp.neurons.0: 100% of its neurons never fire")
    assert "\n" not in text
    assert text.endswith(".")
