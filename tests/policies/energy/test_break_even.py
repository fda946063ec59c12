import pytest
import torch
from torch import nn

from policies.actor import PopulationActor
from policies.config import EncoderConfig, PopulationActorConfig
from policies.energy import OperationCount, count_operations
from policies.energy.break_even import DATA_MOVEMENT, break_even
from policies.energy.constants import costs_named
from policies.energy.layer_count import LayerCount
from policies.spiking_mlp import SpikeLinear
from policies.value import ValueNetwork


def counts(
    obs_dim: int, action_dim: int, encoder: str = "deterministic"
) -> tuple[OperationCount, OperationCount]:
    torch.manual_seed(0)
    config = PopulationActorConfig(
        normalize=False,
        encoder=EncoderConfig(kind=encoder),  # type: ignore[arg-type]  # parametrized
    )
    dense = nn.Sequential(
        nn.Linear(obs_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, action_dim),
    )  # fmt: skip
    obs = torch.randn(2, obs_dim)
    actor = PopulationActor(obs_dim, action_dim, config)
    return count_operations(actor, obs), count_operations(dense, obs)


@pytest.mark.parametrize(
    ("env", "obs_dim", "action_dim", "slots", "products", "rate"),
    [
        ("Hopper-v4", 11, 3, 506_880, 69_120, 0.70),
        ("HalfCheetah-v4", 17, 6, 622_080, 71_424, 0.59),
        ("Ant-v4", 27, 8, 775_680, 74_496, 0.49),
        ("Ant-v3", 111, 8, 1_850_880, 96_000, 0.265),
    ],
)
def test_popsan_sizes(
    env: str, obs_dim: int, action_dim: int, slots: int, products: int, rate: float
) -> None:
    """5 (10 obs 256 + 256 256 + 256 10 actions) slots against obs 256 + 256 256 + 256 actions."""
    spiking, dense = counts(obs_dim, action_dim)
    linear = [layer.dense for layer in spiking.layers.values() if layer.kind == "linear"]
    assert sum(linear) == slots
    assert dense.dense == products
    found = break_even(spiking, dense)
    assert found.rate.value == pytest.approx(products * 4.6 / (slots * 0.9))
    assert found.rate.value == pytest.approx(rate, abs=0.005)
    assert found.rate.kind == "counted"
    # Two products for each field, up to one for each of 10 neurons an action.
    charged = break_even(spiking, dense, coding=True)
    coding = 2 * 10 * obs_dim + spiking.layers["decoder"].multiply_accumulates
    assert charged.rate.value == pytest.approx((products - coding) * 4.6 / (slots * 0.9))
    assert charged.spiking.value == pytest.approx(spiking.energy_nj)
    assert charged.dense.value == pytest.approx(products * 4.6 / 1000)


def spiked(accumulates: float, slots: float) -> LayerCount:
    return LayerCount(accumulates, dense=slots, kind="linear", spiked=True, slots=slots)


def test_at_the_break_even_rate_energies_are_equal() -> None:
    spiking = OperationCount(
        {
            "embed": LayerCount(multiply_accumulates=100, dense=100, kind="linear"),
            "a": spiked(300, 1000),
            "b": spiked(0, 500),
            "mix": LayerCount(accumulates=50, dense=100, kind="attention", spiked=True),
            "norm": LayerCount(multiply_accumulates=10, dense=10, kind="norm"),
            "decoder": LayerCount(multiply_accumulates=7, dense=7, kind="decoder"),
        }
    )
    dense = OperationCount({"a": LayerCount(multiply_accumulates=1, dense=200, kind="linear")})
    found = break_even(spiking, dense)
    assert found.input_rate.value == pytest.approx(300 / 1500)
    # 110 products and 50 additions of mixing whatever the rate.
    fixed = 110 * 4.6 + 50 * 0.9
    assert found.rate.value * 1500 * 0.9 + fixed == pytest.approx(200 * 4.6)
    assert found.spiking.value == pytest.approx((300 * 0.9 + fixed) / 1000)
    with_decoder = break_even(spiking, dense, coding=True)
    assert with_decoder.spiking.value == pytest.approx((300 * 0.9 + fixed + 7 * 4.6) / 1000)
    costs = costs_named("45nm-int8")
    int8 = break_even(spiking, dense, costs=costs)
    assert int8.rate.value * 1500 * 0.03 == pytest.approx(200 * 0.23 - 110 * 0.23 - 50 * 0.03)
    assert "int8" not in found.rate.method
    assert "0.03 pJ an accumulate" in int8.rate.method


@pytest.mark.parametrize(
    ("fixed", "products", "words"),
    [
        (300, 200, "costs more than the dense one at any firing rate"),
        (0, 200, "costs less than the dense one at any firing rate"),
        (180, 200, "the same at a mean input rate of 0.102"),
    ],
)
def test_text(fixed: float, products: float, words: str) -> None:
    spiking = OperationCount(
        {
            "embed": LayerCount(multiply_accumulates=fixed, dense=fixed, kind="linear"),
            "a": spiked(100, 1000),
        }
    )
    found = break_even(spiking, OperationCount({"a": LayerCount(dense=products, kind="linear")}))
    assert words in found.text
    assert "at 0.100, where it ran" in found.text
    assert "not in this comparison" in found.text


def test_the_caveat_is_marked_published() -> None:
    found = break_even(*counts(3, 1))
    assert found.caveat is DATA_MOVEMENT
    assert found.caveat.value == 0.057
    assert found.caveat.text.startswith("Published, not counted here")
    assert "2409.08290" in found.caveat.source


def test_a_dense_network_has_no_break_even() -> None:
    _, dense = counts(3, 1)
    with pytest.raises(ValueError, match="no linear layer whose input was spikes"):
        break_even(dense, dense)


def test_analog_codes_are_charged_as_products() -> None:
    spiking, dense = counts(17, 6, "analog")
    found = break_even(spiking, dense)
    # The first layer's products, once, whatever the rates, and all of them as in the dense one.
    fixed = 10 * 17 * 256
    slots = 5 * (256 * 256 + 256 * 60)
    assert found.rate.value == pytest.approx((71_424 - fixed) * 4.6 / (slots * 0.9))


class Extracting(nn.Module):
    """Features of an image, then a network; zeros in images are skipped, or not."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.conv(x).flatten(1))  # type: ignore[no-any-return]


def test_what_both_networks_have_costs_the_same_in_both() -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(normalize=False, hidden_sizes=(8,))
    bodies = PopulationActor(8, 2, config), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    images = torch.randn(6, 1, 4, 4).relu()  # half of it 0
    found = [count_operations(Extracting(body), images) for body in bodies]
    spiking, dense = found
    conv = 2 * 2 * 2 * 9
    for count in found:
        assert count.layers["conv"].multiply_accumulates < 0.7 * conv
        assert count.with_zeros().layers["conv"].multiply_accumulates == conv
    # Without coding: 8 x 8 + 8 x 2 products against 5 (80 x 8 + 8 x 20) slots.
    rate = break_even(spiking, dense).rate.value
    assert rate == pytest.approx((64 + 16) * 4.6 / (5 * (640 + 160) * 0.9))
    # Spikes that did not come are no zeros to charge.
    assert spiking.with_zeros().accumulates == spiking.accumulates > 0


def test_layers_are_spiked_by_what_they_are_and_not_by_their_input() -> None:
    binary = (torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    conv = count_operations(nn.Conv2d(1, 2, 3), binary).layers[""]
    assert conv.accumulates > 0
    assert (conv.spiked, conv.slots) == (False, 0.0)
    assert conv.with_zeros().multiply_accumulates == conv.dense == 72
    fed = count_operations(SpikeLinear(2, 5), torch.tensor([[1.0, 0.0], [0.5, 0.0]])).layers[""]
    assert (fed.spiked, fed.multiply_accumulates) == (False, 5.0)


def test_weights_that_are_zero_are_no_slots() -> None:
    layer = SpikeLinear(4, 5)
    with torch.no_grad():
        layer.weight[1:, :2] = 0.0  # 12 of 20 are left
    spikes = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    count = count_operations(layer, spikes)
    assert count.layers[""].slots == 12.0
    assert count.layers[""].dense == 20.0
    # Of inputs weighted by their weights, all fired, and half.
    found = break_even(count, OperationCount({"a": LayerCount(dense=3, kind="linear")}))
    assert found.input_rate.value == pytest.approx(0.75)
    assert found.rate.value == pytest.approx(3 * 4.6 / (12 * 0.9))


def test_the_readout_of_values_is_coding() -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(normalize=False, hidden_sizes=(8,))
    network = ValueNetwork(3, 2, config)
    dense = count_operations(nn.Linear(3, 2), torch.randn(4, 3))
    count = count_operations(network, torch.randn(4, 3))
    kinds = {name: layer.kind for name, layer in count.layers.items()}
    assert kinds["readout.level"] == kinds["readout.difference"] == "decoder"
    level, difference = count.layers["readout.level"], count.layers["readout.difference"]
    pop = network.config.decoder.pop_size
    # Once each: a product with the level, and one with each of two values.
    assert (level.dense, difference.dense) == (pop, 2 * pop)
    assert difference.multiply_accumulates == 2 * level.multiply_accumulates > 0
    assert count.uncounted == ()
    spikes = 0.9 * count.accumulates / 1000
    assert break_even(count, dense).spiking.value == pytest.approx(spikes)
