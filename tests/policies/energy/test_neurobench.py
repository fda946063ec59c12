"""Our metrics equal those of NeuroBench's own classes; tests/.../test_metrics.py counts by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.config import CurrentLIFConfig, LIFConfig, PopulationActorConfig
from policies.energy import count_operations
from policies.energy.metrics import neurobench_metrics
from policies.neurons import LIF, CurrentLIF
from policies.spiking_mlp import SpikingMLP
from policies.transformer import SpikingTransformer, TransformerConfig
from policies.value import ValueNetwork

pytest.importorskip("neurobench", reason="NeuroBench is not installed (see `make setup`)")

import snntorch
from neurobench.hooks.neuron import NeuronHook
from neurobench.metrics.static import ConnectionSparsity, Footprint, ParameterCount
from neurobench.metrics.utils.layers import single_layer_MACs
from neurobench.metrics.workload import (
    ActivationSparsity,
    MembraneUpdates,
    NeuronOperations,
    SynapticOperations,
)
from neurobench.models import SNNTorchModel, TorchModel

STATIC = (Footprint, ConnectionSparsity, ParameterCount)
SHARED = (*STATIC, ActivationSparsity, SynapticOperations)
NEURONS = (MembraneUpdates, NeuronOperations)


class SpikesOfTuples(NeuronHook):  # type: ignore[misc]  # it has no types
    """NeuroBench's hook, for layers that give (spikes, state)."""

    def hook_fn(self, layer: nn.Module, input: Any, output: Any) -> None:
        self.activation_outputs.append(output[0])


class OurModel(TorchModel):  # type: ignore[misc]  # it has no types
    """NeuroBench's wrapper, with our neurons among the layers whose outputs it looks at."""

    def register_hooks(self) -> None:
        super().register_hooks()
        for module in self.net.modules():
            if isinstance(module, LIF | CurrentLIF):
                self.activation_hooks.append(SpikesOfTuples(module))


def theirs(model: Any, data: Tensor, classes: tuple[Any, ...]) -> dict[str, Any]:
    model.register_hooks()
    with torch.no_grad():
        predictions = model(data)
    batch = (data, torch.zeros(len(data)))
    result = {}
    for kind in classes:
        metric = kind()
        result[kind.__name__] = (
            metric(model) if kind in STATIC else metric(model, predictions, batch)
        )
    model.cleanup_hooks()
    return result


def prune(model: nn.Module, share: float) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.mul_(torch.rand_like(module.weight) > share)


class TimeFirst(nn.Module):
    """[B, T, N] -> SpikingMLP: NeuroBench's data are batch first."""

    def __init__(self, mlp: SpikingMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x.transpose(0, 1))
        return out


def dense() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 2))
    return net, torch.randn(5, 7)


def pruned() -> tuple[nn.Module, Tensor]:
    net, x = dense()
    prune(net, 0.4)
    return net, x * (torch.rand_like(x) > 0.3)


def ternary() -> tuple[nn.Module, Tensor]:
    # Inputs in {-1, 0, 1} are spikes to NeuroBench.
    net = nn.Sequential(nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 3))
    return net, torch.randint(-1, 2, (6, 8)).float()


def convolution() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 2 * 2, 3),
    )  # fmt: skip
    prune(net, 0.2)
    return net, torch.randn(4, 3, 8, 8).relu()


def one_dimensional() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU()), torch.randn(4, 2, 10)


def cells() -> tuple[nn.Module, Tensor]:
    """Weights of a recurrent layer count as connections, biases too; it does not run here."""
    net, x = dense()
    lstm = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    nn.init.zeros_(lstm.get_parameter("bias_hh_l0"))
    net.register_module("unused", nn.Identity())
    net.get_submodule("unused").register_module("lstm", lstm)
    return net, x


def spiking_mlp() -> tuple[nn.Module, Tensor]:
    mlp = SpikingMLP([6, 20, 10, 4], CurrentLIFConfig())
    prune(mlp, 0.1)
    return TimeFirst(mlp), (torch.rand(3, 5, 6) < 0.4).float()


def population_actor() -> tuple[nn.Module, Tensor]:
    return PopulationActor(4, 2, PopulationActorConfig(hidden_sizes=(16, 12))), torch.randn(6, 4)


def value_network() -> tuple[nn.Module, Tensor]:
    return ValueNetwork(3, 2, PopulationActorConfig(hidden_sizes=(12,))), torch.randn(6, 3)


def transformer(attention: str) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        config = TransformerConfig(
            width=16,
            context=5,
            num_layers=2,
            num_heads=2,
            window=3,
            attention=attention,  # type: ignore[arg-type]  # parametrized
        )
        net = SpikingTransformer(config)
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(30.0)
        return net, torch.randn(3, 5, 16)

    return make


CASES = {
    "dense": dense, "pruned": pruned, "ternary": ternary, "convolution": convolution,
    "one_dimensional": one_dimensional, "cells": cells, "spiking_mlp": spiking_mlp,
    "population_actor": population_actor, "value_network": value_network,
    "pssa": transformer("pssa"), "tssa": transformer("tssa"), "softmax": transformer("softmax"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_equal_to_neurobench(name: str) -> None:
    torch.manual_seed(0)
    net, data = CASES[name]()
    ours = neurobench_metrics(net, data)
    expected = theirs(OurModel(net), data, SHARED)
    for key, value in expected.items():
        assert ours[key] == pytest.approx(value, rel=1e-9), key
    assert expected["SynapticOperations"]["Dense"] > 0
    spikes = ours["SynapticOperations"]["Effective_ACs"] > 0
    assert spikes == (name not in ("dense", "pruned", "convolution", "one_dimensional", "cells"))


class Snn(nn.Module):
    """snnTorch's neurons behind given linear layers, one spike step a call."""

    def __init__(self, linears: nn.ModuleList, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.linears = linears
        self.neurons = nn.ModuleList(make() for _ in linears)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        for linear, neuron in zip(self.linears, self.neurons, strict=True):
            x = neuron(linear(x))
        return x, None


def leaky(reset: str, threshold: float = 0.5) -> nn.Module:
    neuron: nn.Module = snntorch.Leaky(
        0.75, threshold=threshold, init_hidden=True, reset_mechanism=reset, reset_delay=False
    )
    return neuron


def synaptic() -> nn.Module:
    neuron: nn.Module = snntorch.Synaptic(
        0.5, 0.75, threshold=0.5, init_hidden=True, reset_mechanism="zero", reset_delay=False
    )
    return neuron


@pytest.mark.parametrize(
    ("neuron", "make"),
    [
        (LIFConfig(v_decay=0.75, v_threshold=0.5), lambda: leaky("zero")),
        # Soft resets agree below twice the threshold: above, snnTorch subtracts before it fires.
        (
            LIFConfig(v_decay=0.75, v_threshold=1.0, reset_mode="soft"),
            lambda: leaky("subtract", 1.0),
        ),
        (CurrentLIFConfig(), synaptic),
    ],
    ids=["hard", "soft", "current"],
)
def test_equal_to_the_same_network_in_snntorch(
    neuron: LIFConfig | CurrentLIFConfig, make: Callable[[], nn.Module]
) -> None:
    """T calls on [B, N] there, one call on [T * B, N] here: a sample is an input either way."""
    torch.manual_seed(0)
    mlp = SpikingMLP([6, 20, 10], neuron)
    spikes = (torch.rand(4, 7, 6) < 0.5).float()
    spikes[0] = 0.0  # a silent sample: membranes move by the biases alone
    with torch.no_grad():
        mlp.layers()[1].bias.zero_()  # those of the silent sample's second layer may rest
    snn = Snn(mlp.linears, make)
    workload = (ActivationSparsity, SynapticOperations, *NEURONS)
    expected = theirs(SNNTorchModel(snn), spikes, (ConnectionSparsity, *workload))
    ours = neurobench_metrics(TimeFirst(mlp), spikes)
    for key, value in expected.items():
        assert ours[key] == pytest.approx(value, rel=1e-9), key
    assert 0 < expected["MembraneUpdates"] < 7 * 30


def test_an_lstm_cell_costs_what_neurobench_says() -> None:
    """With states that are not 0; NeuroBench has no rule for whole recurrent layers."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 2)
    x, states = torch.randn(4, 3), (torch.randn(4, 2), torch.randn(4, 2))
    operations, spiking = single_layer_MACs((x, states), cell)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor) -> Tensor:
            self.cell(x, states)
            return x

    assert not spiking
    assert count_operations(Net(), x).multiply_accumulates == operations / 4
