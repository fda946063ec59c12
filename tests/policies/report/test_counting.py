"""Counts over batches, energies of them, and what they say about a pair of networks."""

import pytest
import torch
from torch import nn

from policies.energy import COSTS, count_operations
from policies.energy.metrics import size_of
from policies.report import Absent, summarize
from policies.report.counting import (
    count_batches,
    counted_energies,
    layer_records,
    mean_count,
)
from policies.report.verdict import compare
from policies.spiking_mlp import SpikeLinear

COST = COSTS["45nm-float32"]


def dense_net() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for layer in (net[0], net[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    return net


def test_batches_of_other_sizes_weigh_by_their_samples() -> None:
    x = torch.tensor([[1.5, 2.0], [0.0, 3.0], [-1.0, -2.0], [0.5, 0.5]])
    whole = count_operations(dense_net(), x)
    found = count_batches(dense_net(), [(x[:1],), (x[1:],)])
    assert found.multiply_accumulates == pytest.approx(whole.multiply_accumulates)
    # Inputs: 2, 1, 2, 2 of 3 weights each; the third sample's units are 0, the others' are not.
    assert found.layers["0"].multiply_accumulates == pytest.approx(3 * 7 / 4)
    assert found.layers["2"].multiply_accumulates == pytest.approx(3 * 3 / 4)
    assert found.dense == 9.0
    with pytest.raises(ValueError, match="at least one batch"):
        mean_count([])


def test_energies_of_a_trained_and_of_an_untrained_dense_network() -> None:
    count = count_batches(dense_net(), [(torch.tensor([[-1.0, 0.0]]),)])
    lengths = summarize([10.0, 30.0])
    rows = counted_energies(count, COST, lengths, trained=True, zeros_skipped=True)
    assert [row.label for row in rows] == ["zeros skipped", "all products"]
    # 3 products of the one input that is not 0; all 9.
    assert rows[0].decision.value == pytest.approx(3 * 4.6 / 1000)  # type: ignore[union-attr]
    assert rows[0].episode.value == pytest.approx(20 * 3 * 4.6 / 1000)  # type: ignore[union-attr]
    assert rows[1].decision.value == pytest.approx(9 * 4.6 / 1000)  # type: ignore[union-attr]
    nothing = Absent("not known")
    layers = layer_records(count, zeros_skipped=False)
    assert [layer.multiply_accumulates for layer in layers] == [6.0, 3.0]
    (row,) = counted_energies(count, COST, nothing, trained=False, zeros_skipped=False)
    assert row.label == "all products"
    assert row.episode is nothing
    # The network beside an untrained one is shown by the same rule first.
    rows = counted_energies(count, COST, lengths, trained=True, zeros_skipped=False)
    assert [row.label for row in rows] == ["all products", "zeros skipped"]


def test_batch_norms_are_folded_in_both() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), dense_net())
    found = count_batches(net, [(torch.tensor([[1.5, 0.5]]),)])
    assert found.dense == 9.0


def test_ratio_and_break_even_by_hand() -> None:
    spikes = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])  # [T, B, N], 3 of 4 fire

    class Spiking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = SpikeLinear(2, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.transpose(0, 1).flatten(0, 1))  # type: ignore[no-any-return]

    spiking = count_operations(Spiking(), spikes.transpose(0, 1))
    dense = count_operations(dense_net(), torch.tensor([[1.5, 0.0]]))
    assert (spiking.accumulates, spiking.dense) == (15.0, 20.0)
    found = compare(spiking, dense, COST, zeros_skipped=True)
    ratios = found.numbers["energy ratio"]
    assert ratios["all products"] == pytest.approx(15 * 0.9 / (9 * 4.6))
    assert ratios["zeros skipped"] == pytest.approx(15 * 0.9 / (6 * 4.6))
    assert found.numbers["break-even"].rate.value == pytest.approx(9 * 4.6 / (20 * 0.9))
    assert any("fired at 75 %" in sentence for sentence in found.sentences)
    assert any("2409.08290" in sentence for sentence in found.caveats)
    untrained = compare(spiking, dense, COST, zeros_skipped=False)
    assert list(untrained.numbers["energy ratio"]) == ["all products"]


class Seeing(nn.Module):
    """A features extractor before a network that spikes or does not."""

    def __init__(self, spikes: bool) -> None:
        super().__init__()
        self.extractor = nn.Linear(8, 4)
        self.body = SpikeLinear(4, 3) if spikes else nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.extractor(x)
        if isinstance(self.body, SpikeLinear):
            features = (features > 0).float()
        return self.body(features)  # type: ignore[no-any-return]


def test_an_extractor_costs_the_same_in_both_networks() -> None:
    """Charged by products that are not 0 on one side only, it would decide the comparison."""
    torch.manual_seed(0)
    x = torch.zeros(1, 8)
    x[0, 0] = 1.5
    spiking, dense = (count_operations(Seeing(spikes), x) for spikes in (True, False))
    adds = spiking.layers["body"].accumulates
    assert spiking.layers["extractor"].multiply_accumulates == 4.0
    found = compare(spiking, dense, COST, zeros_skipped=True)
    ratios = found.numbers["energy ratio"]
    assert ratios["all products"] == pytest.approx((32 * 4.6 + adds * 0.9) / ((32 + 12) * 4.6))
    assert ratios["zeros skipped"] == pytest.approx((4 * 4.6 + adds * 0.9) / ((4 + 12) * 4.6))
    assert found.numbers["break-even"].rate.value == pytest.approx(12 * 4.6 / (12 * 0.9))
    # The table of layers and the rows of energy follow.
    lengths = summarize([10.0, 30.0])
    (extractor, body) = layer_records(spiking, zeros_skipped=False)
    assert (extractor.multiply_accumulates, body.accumulates) == (32.0, adds)
    every, skipped = counted_energies(spiking, COST, lengths, trained=True, zeros_skipped=False)
    assert every.decision.value == pytest.approx((32 * 4.6 + adds * 0.9) / 1000)  # type: ignore[union-attr]
    assert skipped.decision.value == pytest.approx((4 * 4.6 + adds * 0.9) / 1000)  # type: ignore[union-attr]


def test_means_of_batches_keep_what_break_even_needs() -> None:
    layer = SpikeLinear(2, 5)
    found = count_batches(layer, [(torch.ones(1, 2),), (torch.zeros(3, 2),)])
    assert found.layers[""].spiked
    assert found.layers[""].slots == 10.0
    assert found.layers[""].accumulates == 2.5


def test_without_spikes_there_is_no_break_even() -> None:
    dense = count_operations(dense_net(), torch.tensor([[1.5, 0.5]]))
    found = compare(dense, dense, COST, zeros_skipped=True)
    assert found.sentences[-1].startswith("No linear layer has spikes")


def test_parameters_and_bytes() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    # Weights 6 + 3 + 3 + 3; buffers: 3 + 3 floats and a 64-bit counter.
    assert size_of(net) == (15, 15 * 4 + 6 * 4 + 8)
