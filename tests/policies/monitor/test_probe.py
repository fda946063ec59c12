"""What the probe sees, against networks whose weights are set by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from policies.actor import PopulationActor
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)
from policies.monitor import probe
from policies.spiking_mlp import SpikingMLP
from policies.value import ValueNetwork


def by_hand() -> tuple[SpikingMLP, torch.Tensor]:
    """One layer of three neurons without leak on one input: dead, always firing, firing once."""
    mlp = SpikingMLP([1, 3], LIFConfig(v_decay=1.0, v_threshold=0.5))
    linear: Any = mlp.linears[0]
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0], [0.0], [0.25]]))
        linear.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    # T 3, two samples: one spikes at every step, one never
    spikes = torch.zeros(3, 2, 1)
    spikes[:, 0] = 1
    return mlp, spikes


def test_counts_by_hand() -> None:
    mlp, spikes = by_hand()
    (layer,) = probe(mlp, lambda: mlp(spikes)).layers
    # The third neuron charges 0.25, 0.5, 0.75: above 0.5 at the third step, for the first sample.
    assert layer.counts.tolist() == [[0, 3, 1], [0, 3, 0]]
    assert layer.rates.tolist() == pytest.approx([0, 1, 1 / 6])
    assert layer.firing_rate == pytest.approx((0 + 1 + 1 / 6) / 3)
    assert layer.dead == pytest.approx(1 / 3)
    assert layer.saturated == pytest.approx(1 / 3)
    # Without spikes: never above 0, 1 + 1 + 1, 3 x 0.25.
    assert layer.peak.tolist() == [0, 3, 0.75]
    assert layer.driven
    assert layer.finite


def test_the_peak_of_a_filtered_current_by_hand() -> None:
    mlp = SpikingMLP([1, 1], CurrentLIFConfig(i_decay=0.5, v_decay=0.5))
    linear: Any = mlp.linears[0]
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.zero_()
    spikes = torch.zeros(3, 1, 1)
    spikes[0] = 1
    (layer,) = probe(mlp, lambda: mlp(spikes)).layers
    # i: 1, 0.5, 0.25; v: 1, 1, 0.75
    assert layer.peak.tolist() == [1.0]
    assert not layer.driven  # a single sample


def test_one_saturated_step_needs_every_spike() -> None:
    mlp = SpikingMLP([1, 1], LIFConfig())
    linear: Any = mlp.linears[0]
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.zero_()
    one_of_two = torch.tensor([[[1.0], [0.0]]])
    assert probe(mlp, lambda: mlp(one_of_two)).layers[0].saturated == 0
    assert probe(mlp, lambda: mlp(torch.ones(1, 2, 1))).layers[0].saturated == 1


def test_gradient_flow_by_hand() -> None:
    """A rectangle of width 1 around 0.5 passes what charges to between 0 and 1, exclusive."""
    mlp = SpikingMLP([1, 4], LIFConfig(v_decay=0.0))
    linear: Any = mlp.linears[0]
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.copy_(torch.tensor([-2.0, -0.5, -0.25, 5.0]))
    # charged to -1, 0.5, 0.75, 6: two of four
    (layer,) = probe(mlp, lambda: mlp(torch.ones(1, 2, 1)) * torch.ones(4)).layers
    assert layer.flow == 0.5


def test_flow_is_unknown_where_no_gradient_arrives() -> None:
    mlp, spikes = by_hand()
    assert probe(mlp, lambda: 0.0 * mlp(spikes)).layers[0].flow is None


def test_coverage_by_hand() -> None:
    actor = PopulationActor(2, 1, PopulationActorConfig(hidden_sizes=(4,), normalize=False))
    # In range, out of range; each dimension by itself.
    obs = torch.tensor([[0.0, 0.0], [0.1, 50.0], [0.2, -50.0], [0.3, 0.4]])
    (encoder,) = probe(actor, lambda: actor(obs)).encoders
    assert encoder.missed.tolist() == [0, 0.5]
    assert encoder.coverage == 0.75
    assert encoder.learned


def test_a_field_counts_as_hit_if_it_can_spike() -> None:
    """After 5 steps of 0.2 the integrator is above 0.999, after 5 of 0.19 it is not."""
    config = PopulationActorConfig(
        hidden_sizes=(4,), normalize=False, encoder=EncoderConfig(pop_size=1, std=1.0)
    )
    actor = PopulationActor(1, 1, config)
    distances = [math.sqrt(-2 * math.log(activation)) for activation in (0.2, 0.19)]
    hit, miss = (torch.full((2, 1), distance) for distance in distances)
    assert probe(actor, lambda: actor(hit)).encoders[0].missed.tolist() == [0]
    assert probe(actor, lambda: actor(miss)).encoders[0].missed.tolist() == [1]
    with torch.no_grad():
        assert actor.encoder(hit).sum() == 2
        assert actor.encoder(miss).sum() == 0


def test_clipped_values_are_missed_once_statistics_are_there() -> None:
    actor = PopulationActor(1, 1, PopulationActorConfig(hidden_sizes=(4,)))
    obs = torch.tensor([[0.0], [100.0]])
    assert not probe(actor, lambda: actor(obs)).encoders[0].learned
    assert actor.normalizer is not None
    actor.normalizer.update(torch.randn(64, 1, generator=torch.Generator().manual_seed(0)))
    (encoder,) = probe(actor, lambda: actor(obs)).encoders
    assert encoder.learned
    assert encoder.missed.tolist() == [0.5]


def test_features_with_bounds_may_stand_at_their_edge() -> None:
    actor = PopulationActor(1, 1, PopulationActorConfig(hidden_sizes=(4,)))
    assert actor.normalizer is not None
    actor.normalizer.fix_bounds(torch.tensor([-1.0]), torch.tensor([1.0]))
    (encoder,) = probe(actor, lambda: actor(torch.tensor([[1.0], [-1.0]]))).encoders
    assert encoder.learned
    assert encoder.missed.tolist() == [0]


@pytest.mark.parametrize("kind", ["rate", "membrane"])
def test_response_of_a_readout(kind: Any) -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(hidden_sizes=(32,), decoder=DecoderConfig(kind=kind))
    actor = PopulationActor(3, 2, config)
    obs = torch.randn(64, 3)
    (usual,) = probe(actor, lambda: actor(obs)).readouts
    assert usual.driven
    assert 0.1 < usual.response.min() < usual.response.max() < 50
    with torch.no_grad():
        actor.decoder.weight[1] *= 1e-3
    (scaled,) = probe(actor, lambda: actor(obs)).readouts
    assert scaled.response[0] == usual.response[0]
    assert float(scaled.response[1]) == pytest.approx(1e-3 * float(usual.response[1]), rel=1e-2)


def test_value_networks_are_looked_into() -> None:
    torch.manual_seed(0)
    network = ValueNetwork(3, 4, PopulationActorConfig(hidden_sizes=(16,)))
    activity = probe(network, lambda: network(torch.randn(32, 3)))
    assert [layer.name for layer in activity.layers] == ["mlp.neurons.0", "mlp.neurons.1"]
    assert activity.readouts[0].response.shape == (4,)
    assert set(activity.firing_rates) == {"encoder", "mlp.neurons.0", "mlp.neurons.1"}


def test_analog_encoders_have_no_rate() -> None:
    config = PopulationActorConfig(hidden_sizes=(8,), encoder=EncoderConfig(kind="analog"))
    actor = PopulationActor(3, 2, config)
    activity = probe(actor, lambda: actor(torch.randn(16, 3)))
    assert activity.encoders[0].firing_rate is None
    assert "encoder" not in activity.firing_rates


def test_a_broken_weight_is_named() -> None:
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=(8,)))
    linear: Any = actor.mlp.linears[1]
    with torch.no_grad():
        linear.weight[2, 3] = torch.nan
    activity = probe(actor, lambda: actor(torch.randn(16, 3)))
    assert activity.broken == ("mlp.linears.1.weight",)


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(hidden_sizes=(8,), encoder=EncoderConfig(kind="poisson"))
    actor = PopulationActor(3, 2, config)
    obs = torch.randn(16, 3)
    state = {name: value.clone() for name, value in actor.state_dict().items()}
    random = torch.get_rng_state()
    probe(actor, lambda: actor(obs))
    assert torch.equal(torch.get_rng_state(), random)
    assert actor.training
    assert all(parameter.grad is None for parameter in actor.parameters())
    assert all(not module._forward_hooks for module in actor.modules())
    for name, value in actor.state_dict().items():
        assert torch.equal(value, state[name])


def test_hooks_go_when_the_network_raises() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = SpikingMLP([1, 1])

        def forward(self) -> None:
            raise ValueError("the input is NaN")

    network = Broken()
    assert probe(network, network).failed == "the input is NaN"
    assert all(not module._forward_hooks for module in network.modules())
