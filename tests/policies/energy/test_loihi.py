"""SANA-FE's Loihi model gives torch's spikes, and its energy is what its events cost."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.actor import PopulationActor
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)
from policies.energy import count_operations
from policies.energy.loihi import LoihiResult, simulate_on_loihi
from policies.energy.loihi_network import spike_trains
from tests.common import POPSAN_FILE, needs_popsan, popsan_parameters

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sanafe") is None, reason="SANA-FE is not installed"
)

# nJ an event, from Davies et al. 2018 as SANA-FE's loihi.yaml has them.
SYNAPSE, ACCESS, UPDATE, SPIKE, MESSAGE = 0.0355, 0.0512, 0.0216, 0.0693, 0.111


def make(seed: int, **config: Any) -> PopulationActor:
    """A seeded actor that fires; its normalizer would only hide what it is given."""
    torch.manual_seed(seed)
    actor = PopulationActor(3, 2, PopulationActorConfig(normalize=False, **config))
    with torch.no_grad():
        for layer in actor.mlp.layers():
            layer.weight.mul_(2.0)
    return actor


def assert_equal_to_torch(result: LoihiResult, trains: list[Tensor]) -> None:
    """The spikes, their sums, and what holds of any result."""
    assert result.spike_mismatches == 0
    assert result.warning is None
    assert list(result.spikes.values()) == [
        pytest.approx(float(train.sum()) / train.shape[1]) for train in trains
    ]
    assert result.torch_spikes == sum(float(train.sum()) for train in trains[1:]) > 0
    parts = {name: figure.value for name, figure in result.energy.items()}
    assert set(parts) == {"total", "synapse", "soma", "network"}
    assert parts.pop("total") == pytest.approx(sum(parts.values()), rel=1e-9)
    assert all(value > 0 for value in parts.values())
    assert result.chip_time.value > 0
    for figure in (*result.energy.values(), result.chip_time):
        assert figure.kind == "simulated"
        assert "SANA-FE 2." in figure.method
        assert "Loihi" in figure.method
    assert {figure.unit for figure in result.energy.values()} == {"nJ"}
    assert result.chip_time.unit == "us"
    assert "sanafe" not in sys.modules  # it stays in its own process


def by_hand(actor: PopulationActor, inputs: NDArray[Any]) -> dict[str, float]:
    """Energy of one decision, nJ: every event in T + layers steps, in float64; inputs [T, N].

    Each layer sees what the one before it sent a step earlier. Spikes after a layer's T steps are
    charged as well.
    """
    steps, layers = len(inputs), len(actor.mlp.layers())
    x = np.concatenate([inputs, np.zeros((layers, inputs.shape[1]))])
    synapses = soma = messages = 0.0
    for k, (layer, neuron) in enumerate(zip(actor.mlp.layers(), actor.mlp.neurons, strict=True)):
        config: Any = neuron.config
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        i = v = np.zeros(len(bias))
        out = np.zeros((len(x), len(bias)))
        for s in range(len(x)):
            x_now = x[s - 1] if s else np.zeros(x.shape[1])
            # The bias is a spike of its own, at each of the layer's T steps.
            biased = k + 1 <= s < k + 1 + steps
            events = (weight != 0) @ x_now + (bias != 0) * biased
            i = config.i_decay * i + weight @ x_now + bias * biased
            driven = (v != 0) | (events > 0)
            v = config.v_decay * v + i
            out[s] = v > config.v_threshold
            updated = driven | (v > config.v_threshold)
            v = v * (1 - out[s])
            synapses += events.sum()
            soma += len(bias) * ACCESS + updated.sum() * UPDATE + out[s].sum() * SPIKE
        # What is sent in the last step is processed in it; nobody updates on it any more.
        synapses += ((weight != 0) @ x[-1]).sum()
        messages += x.sum() + steps
        x = out
    network = messages * MESSAGE
    parts = {"synapse": synapses * SYNAPSE, "soma": soma, "network": network}
    return {**parts, "total": sum(parts.values())}


def test_energy_is_what_the_events_cost() -> None:
    actor = make(0, hidden_sizes=(6,), spike_steps=4, encoder=EncoderConfig(pop_size=4),
                 decoder=DecoderConfig(pop_size=3))  # fmt: skip
    with torch.no_grad():
        actor.mlp.layers()[0].weight[2:4, 5] = 0.0  # no synapse
        actor.mlp.layers()[1].bias[1] = 0.0
    observations = torch.randn(3, 3)
    result = simulate_on_loihi(actor, observations)
    trains = spike_trains(actor, observations)
    assert_equal_to_torch(result, trains)
    hands = [by_hand(actor, trains[0][:, row].numpy()) for row in range(3)]
    for part, figure in result.energy.items():
        assert figure.value == pytest.approx(np.mean([hand[part] for hand in hands]), rel=1e-9)
    assert result.decisions == 3
    assert result.cores == 3
    assert result.bias_events == 4 * (6 + 5)
    counted = count_operations(actor, observations).layers
    accumulates = sum(counted[f"mlp.linears.{k}"].accumulates for k in range(2))
    used = result.synaptic_events - result.bias_events - result.late_events
    assert used == pytest.approx(accumulates)
    assert result.synaptic_events * SYNAPSE == pytest.approx(result.energy["synapse"].value)


def test_plain_neurons_with_soft_reset_drawn_spikes_and_ties() -> None:
    neuron = LIFConfig(v_decay=1.0, v_threshold=0.5, reset_mode="soft")
    encoder = EncoderConfig(kind="poisson")
    actor = make(
        1, hidden_sizes=(), spike_steps=7, encoder=encoder, neuron=neuron, matmul="float32"
    )
    (layer,) = actor.mlp.layers()
    with torch.no_grad():
        for parameter in layer.parameters():  # multiples of 1/8: membranes meet the threshold
            parameter.copy_((parameter * 8).round() / 8)
    observations = torch.randn(20, 3)
    torch.manual_seed(5)
    trains = spike_trains(actor, observations)
    v, ties = torch.zeros(20, 20), 0
    for spikes in trains[0]:
        v = v + layer(spikes).detach()
        ties += int((v == 0.5).sum())
        v = v - 0.5 * (v > 0.5)
    assert ties > 50
    torch.manual_seed(5)
    result = simulate_on_loihi(actor, observations)
    assert_equal_to_torch(result, trains)
    assert result.late_spikes == result.late_events == 0.0  # one layer waits for no other


def test_layer_wider_than_a_core_and_more_spikes_cost_more() -> None:
    actor = make(2, hidden_sizes=(1100, 40), neuron=CurrentLIFConfig(i_decay=0.3))
    near = torch.randn(4, 3)
    result = simulate_on_loihi(actor, near)
    assert_equal_to_torch(result, spike_trains(actor, near))
    assert result.cores == 1 + 2 + 1 + 1

    far = near.clone()
    far[:, 0] = 50.0  # outside all receptive fields: fewer spikes
    trains = spike_trains(actor, far)
    fewer = simulate_on_loihi(actor, far, decisions=2)
    assert fewer.decisions == 2
    assert_equal_to_torch(fewer, [train[:, [0, 2]] for train in trains])
    assert fewer.spikes["encoder"] < result.spikes["encoder"]
    assert fewer.synaptic_events < result.synaptic_events
    assert fewer.energy["synapse"].value < result.energy["synapse"].value


@needs_popsan
def test_published_actor() -> None:
    with np.load(POPSAN_FILE) as file:
        actor = PopulationActor(17, 6, PopulationActorConfig(normalize=False))
        actor.load_state_dict(popsan_parameters(file))
        observations = torch.from_numpy(file["traj_obs"])[::8]
    result = simulate_on_loihi(actor, observations)
    assert_equal_to_torch(result, spike_trains(actor, observations))
    accumulates = count_operations(actor, observations).accumulates
    used = result.synaptic_events - result.bias_events - result.late_events
    assert used == pytest.approx(accumulates)
