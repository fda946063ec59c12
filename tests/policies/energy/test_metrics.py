"""NeuroBench's definitions, by hand; test_neurobench.py compares with its own classes."""

import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.config import CurrentLIFConfig, LIFConfig, PopulationActorConfig
from policies.energy.metrics import neurobench_metrics
from policies.spiking_mlp import SpikingMLP


def test_dense_network() -> None:
    first, last = nn.Linear(2, 3), nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]))
        first.bias.fill_(0.0)
        last.weight.copy_(torch.tensor([[2.0, 0.0, 2.0]]))
    net = nn.Sequential(first, nn.ReLU(), last)
    # Hidden: (0.5, 1.0, 0) and (0, 0, 0.5).
    metrics = neurobench_metrics(net, torch.tensor([[0.5, 0.5], [0.0, -0.5]]))
    assert metrics == {
        "ParameterCount": 6 + 3 + 3,
        "Footprint": 4 * 12,
        # One weight of 6 and one of 3.
        "ConnectionSparsity": round(2 / 9, 4),
        # Three of six outputs of ReLU.
        "ActivationSparsity": 0.5,
        "SynapticOperations": {
            # First layer: input 0 meets 3 weights, input 1 two: 5 in the first sample, 2 in the
            # second. Last: (0.5, 1) meets one weight, (0, 0, 0.5) one.
            "Effective_MACs": (5 + 2 + 1 + 1) / 2,
            "Effective_ACs": 0.0,
            "Dense": 6 + 3,
        },
    }


class TimeFirst(nn.Module):
    """[B, T, N] -> SpikingMLP."""

    def __init__(self, mlp: SpikingMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x.transpose(0, 1))
        return out


@pytest.mark.parametrize(
    ("neuron", "changed", "each"),
    [
        # v after each step (before the spike's reset in brackets):
        # neuron 0, current 0.3: 0.3, 0 (0.6), 0.3, 0 (0.6); it spikes twice and always changes.
        # neuron 1, current 0: 0 at each step; the first counts all the same.
        (LIFConfig(v_decay=1.0), 4 + 1, 4),
        (LIFConfig(v_decay=1.0, reset_mode="soft"), 4 + 1, 4),
        (CurrentLIFConfig(v_decay=1.0, i_decay=0.0), 4 + 1, 8),
        (CurrentLIFConfig(v_decay=1.0, i_decay=0.0, reset_mode="soft"), 4 + 1, 6),
    ],
)
def test_spiking_network(neuron: LIFConfig | CurrentLIFConfig, changed: int, each: int) -> None:
    mlp = SpikingMLP([1, 2], neuron)
    with torch.no_grad():
        mlp.layers()[0].weight.copy_(torch.tensor([[0.3], [0.0]]))
        mlp.layers()[0].bias.zero_()
    metrics = neurobench_metrics(TimeFirst(mlp), torch.ones(1, 4, 1))
    # 4 steps, one weight of two is not 0.
    assert metrics["SynapticOperations"] == {
        "Effective_MACs": 0.0, "Effective_ACs": 4.0, "Dense": 8.0,
    }  # fmt: skip
    assert metrics["ConnectionSparsity"] == 0.5
    assert metrics["ActivationSparsity"] == 1 - 2 / 8
    assert metrics["MembraneUpdates"] == changed
    assert metrics["NeuronOperations"] == {
        "Effective Neuron Ops": changed * each, "Neuron Dense Ops": 8 * each,
    }  # fmt: skip


def test_inputs_of_minus_one_are_spikes() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    operations = neurobench_metrics(net, torch.tensor([[-1.0, 0.0, 1.0]]))["SynapticOperations"]
    assert operations == {"Effective_MACs": 0.0, "Effective_ACs": 4.0, "Dense": 6.0}


def test_convolution() -> None:
    layer = nn.Conv1d(1, 1, 2, bias=False)
    nn.init.ones_(layer.weight)
    # Windows (0.5, 0), (0, 0.5).
    operations = neurobench_metrics(nn.Sequential(layer), torch.tensor([[[0.5, 0.0, 0.5]]]))
    assert operations["SynapticOperations"] == {
        "Effective_MACs": 2.0, "Effective_ACs": 0.0, "Dense": 4.0,
    }  # fmt: skip


def test_what_has_no_definition_is_absent() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lstm(x)[0]
            return out

    metrics = neurobench_metrics(Net(), torch.ones(1, 3, 2))
    assert set(metrics) == {
        "Footprint", "ParameterCount", "ConnectionSparsity", "ActivationSparsity",
    }  # fmt: skip
    assert "ConnectionSparsity" not in neurobench_metrics(nn.ReLU(), torch.ones(1, 2))


def test_counting_leaves_no_trace() -> None:
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=(4,)))
    before = torch.get_rng_state()
    neurobench_metrics(actor, torch.zeros(2, 3))
    assert torch.equal(before, torch.get_rng_state())
    assert actor.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in actor.modules())
    with pytest.raises(ValueError, match="at least one sample"):
        neurobench_metrics(actor, torch.zeros(0, 3))
