"""Faults planted in small actors are named, and nothing else is."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from policies.actor import PopulationActor
from policies.config import DecoderConfig, EncoderConfig, PopulationActorConfig
from policies.monitor import Finding, NetworkActivity, diagnose, probe
from policies.monitor.measures import encoder_activity
from policies.population import PopulationEncoder
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


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("scale", [0.0, 1e-9])
def test_deaf_layer(layer: int, scale: float) -> None:
    """Weights that carry nothing: the layer is to blame, not what feeds it or follows it."""
    actor = make(layer)
    linear: Any = actor.mlp.linears[layer]
    with torch.no_grad():
        linear.weight.mul_(scale)
    (found,) = findings(actor)
    assert (found.fault, found.layer) == ("deaf_layer", f"mlp.neurons.{layer}")
    assert found.lasting


def test_a_deaf_layer_is_deaf_at_any_bias() -> None:
    for bias in (-20.0, 0.6, 20.0):
        actor = make(0)
        linear: Any = actor.mlp.linears[0]
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.fill_(bias)
        assert named(actor) == {("deaf_layer", "mlp.neurons.0")}


def test_a_layer_whose_spikes_stand_still_may_recover() -> None:
    actor = make(0)
    linear: Any = actor.mlp.linears[1]
    with torch.no_grad():
        linear.weight.mul_(1e-3)
        linear.bias.copy_(torch.linspace(-0.5, 0.5, 48))
    (found,) = findings(actor)
    assert (found.fault, found.layer, found.lasting) == ("deaf_layer", "mlp.neurons.1", False)


def test_fields_far_wider_than_the_data() -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(
        hidden_sizes=(64,), normalize=False, encoder=EncoderConfig(field_range=1e4)
    )
    actor = PopulationActor(5, 2, config).eval()
    (found,) = findings(actor)
    assert (found.fault, found.lasting) == ("encoder_range", True)
    assert "answers all observations alike" in found.message


@pytest.mark.parametrize("kind", ["analog", "poisson"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_every_encoder_is_sound_at_any_number_of_steps(kind: Any, steps: int) -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(
        hidden_sizes=(64, 48),
        normalize=False,
        spike_steps=steps,
        encoder=EncoderConfig(kind=kind),
    )
    actor = PopulationActor(5, 2, config).eval()
    obs = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    assert not [f for f in diagnose(probe(actor, lambda: actor(obs))) if f.lasting]


def test_one_spike_step_is_too_few_for_an_integrator() -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(hidden_sizes=(64,), normalize=False, spike_steps=1)
    (found,) = findings(PopulationActor(5, 2, config).eval())
    assert found.fault == "encoder_range"
    assert found.remedy.startswith("Raise spike_steps (1 now)")


@pytest.mark.parametrize("v_init", [0.0, 0.5, 0.9])
def test_values_are_missed_where_no_spike_comes(v_init: float) -> None:
    encoder = PopulationEncoder(1, 5, EncoderConfig(pop_size=3, std=0.4, v_init=v_init))
    obs = torch.linspace(-5.0, 5.0, 401)[:, None]
    with torch.no_grad():
        output = encoder(obs)
        found = encoder_activity(torch.nn.Sequential(encoder), "0", encoder, obs, output)
    silent = (output.sum(dim=(0, 2)) == 0).float().mean()
    assert 0.05 < float(silent) < 0.95
    assert float(found.missed) == pytest.approx(float(silent), abs=1e-6)


def test_actions_at_their_bounds() -> None:
    actor = make(0)
    with torch.no_grad():
        actor.decoder.bias.copy_(torch.tensor([1e6, -1e6]))
    (found,) = findings(actor)
    assert (found.fault, found.layer, found.lasting) == ("deaf_readout", "decoder", False)
    with torch.no_grad():
        actor.decoder.bias[1] = 0.0
    assert named(actor) == set()


def test_a_small_readout_may_be_small_by_chance() -> None:
    config = PopulationActorConfig(
        hidden_sizes=(32,), squash=False, decoder=DecoderConfig(pop_size=1)
    )
    for seed in range(40):
        torch.manual_seed(seed)
        actor = PopulationActor(5, 2, config).eval()
        with torch.no_grad():
            actor.decoder.weight.mul_(0.01)  # as PPO does
        assert "deaf_readout" not in {fault for fault, _ in named(actor)}


def test_victims_of_a_silent_layer_are_not_named() -> None:
    actor = make(0)
    first: Any = actor.mlp.linears[0]
    neuron: Any = actor.mlp.neurons[2]
    with torch.no_grad():
        first.bias += 20.0
    neuron.spike_fn = Surrogate("rectangle", 1e-5)
    assert named(actor) == {("saturated_layer", "mlp.neurons.0")}


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
