import pytest
import torch
from torch import nn

from policies.actor import PopulationActor
from policies.config import DecoderConfig, EncoderConfig, LIFConfig, PopulationActorConfig
from policies.energy import count_operations
from policies.spiking_mlp import SpikingMLP


def test_dense_network_by_hand() -> None:
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        first.weight.fill_(1.0)
        first.bias.copy_(torch.tensor([0.0, 0.0, -100.0, -100.0]))
    # All three inputs count; two hidden units are cut by ReLU.
    count = count_operations(model, torch.tensor([[0.5, 1.5, 2.5]]))
    assert count.layers["0"].multiply_accumulates == 12
    assert count.layers["2"].multiply_accumulates == 4
    assert (count.multiply_accumulates, count.accumulates) == (16, 0)
    # 3 x 4 and 4 x 2 products, zeros included.
    assert [layer.dense for layer in count.layers.values()] == [12, 8]
    assert count.dense == 20
    assert count.firing_rates == {}


def test_zero_weights_do_not_count() -> None:
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    # Input 0 meets two weights, input 1 one.
    model = nn.Sequential(layer)
    assert count_operations(model, torch.tensor([[0.5, 2.0]])).multiply_accumulates == 3
    assert count_operations(model, torch.tensor([[0.5, 0.0]])).multiply_accumulates == 2


def test_spikes_cost_their_fan_out() -> None:
    model = SpikingMLP([4, 3])
    spikes = torch.zeros(5, 2, 4)
    spikes[0, 0, 0] = spikes[3, 0, 2] = spikes[4, 1, 1] = 1
    count = count_operations(_TimeFirst(model), spikes.transpose(0, 1))
    assert count.accumulates == 3 * 3 / 2  # three spikes, fan-out 3, two samples
    assert count.multiply_accumulates == 0


class _TimeFirst(nn.Module):
    """[B, T, N] -> SpikingMLP, for a batch-first input."""

    def __init__(self, mlp: SpikingMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp(x.transpose(0, 1))
        return out


@pytest.mark.parametrize("kind", ["rate", "membrane"])
def test_population_actor_by_its_spikes(kind: str) -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(
        hidden_sizes=(8,),
        decoder=DecoderConfig(pop_size=4, kind=kind),  # type: ignore[arg-type]  # parametrized
    )
    actor = PopulationActor(3, 2, config)
    obs = torch.randn(16, 3)
    actor.eval()
    with torch.no_grad():
        encoded = actor.encoder(actor.normalizer(obs) if actor.normalizer else obs)
        hidden, _ = actor.mlp.neurons[0](actor.mlp.linears[0](encoded))
        out = actor.mlp(encoded)
    actor.train()
    count = count_operations(actor, obs)
    assert actor.training
    assert actor.mlp.neurons[0].training
    assert count.layers["mlp.linears.0"].accumulates == pytest.approx(encoded.sum().item() * 8 / 16)
    assert count.layers["mlp.linears.1"].accumulates == pytest.approx(hidden.sum().item() * 8 / 16)
    assert count.layers["encoder"].multiply_accumulates == 2 * 30
    if kind == "rate":
        fired = (out.sum(0) > 0).sum().item() / 16
        assert count.layers["decoder"].multiply_accumulates == pytest.approx(fired)
    else:
        assert count.layers["decoder"].accumulates == pytest.approx(out.sum().item() / 16)
    assert list(count.firing_rates) == ["encoder", "mlp.neurons.0", "mlp.neurons.1"]
    assert count.firing_rates["mlp.neurons.1"] == pytest.approx(out.mean().item())


def test_analog_activations_are_products_and_no_spikes() -> None:
    config = PopulationActorConfig(hidden_sizes=(8,), encoder=EncoderConfig(kind="analog"))
    count = count_operations(PopulationActor(3, 2, config), torch.randn(4, 3))
    assert "encoder" not in count.firing_rates
    first = count.layers["mlp.linears.0"]
    # Once a decision, though there are 5 spike steps. Far fields answer with an exact 0 in float32.
    assert first.dense == 30 * 8
    assert 0 < first.multiply_accumulates <= 30 * 8
    assert first.accumulates == 0
    # Behind it there are spikes, at each of 5 steps.
    assert count.layers["mlp.linears.1"].dense == 5 * 8 * 20
    assert count.layers["mlp.linears.1"].multiply_accumulates == 0


def test_zeroed_readout_weights_do_not_count() -> None:
    torch.manual_seed(0)
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=()))
    with torch.no_grad():
        actor.decoder.weight.zero_()
    count = count_operations(actor, torch.randn(4, 3))
    assert count.layers["decoder"].multiply_accumulates == 0
    assert count.firing_rates["mlp.neurons.0"] > 0


def test_counting_leaves_no_trace() -> None:
    actor = PopulationActor(3, 2, PopulationActorConfig(encoder=EncoderConfig(kind="poisson")))
    before = torch.get_rng_state()
    count_operations(actor, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
    assert all(not module._forward_hooks for module in actor.modules())


def test_a_layer_that_runs_twice_counts_twice() -> None:
    layer = nn.Linear(3, 4)
    count = count_operations(nn.Sequential(layer, nn.Linear(4, 3), layer), torch.ones(2, 3) / 2)
    assert count.layers["0"].multiply_accumulates == 24
    assert count.layers["0"].dense == 24
    assert count.layers["0"].calls == 2


def test_a_firing_rate_is_the_mean_of_all_calls() -> None:
    mlp = SpikingMLP([1, 1], LIFConfig())
    with torch.no_grad():
        mlp.layers()[0].weight.fill_(1.0)
        mlp.layers()[0].bias.zero_()

    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.mlp(x) + self.mlp(0 * x) + self.mlp(0 * x)
            return out

    # Every step in the first call, none in the two others.
    count = count_operations(Thrice(), torch.ones(1, 1, 1))
    assert count.firing_rates["mlp.neurons.0"] == pytest.approx(1 / 3)


def test_the_actors_statistics_stay_as_they_were() -> None:
    actor = PopulationActor(3, 2)
    count_operations(actor, 7 + torch.randn(10, 3))
    assert actor.normalizer is not None
    assert actor.normalizer.running_count.item() == 0


def test_bad_input() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="norms must be one of"):
        count_operations(model, torch.ones(1, 3), norms="free")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one sample"):
        count_operations(model, torch.ones(0, 3))
