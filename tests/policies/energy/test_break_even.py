import pytest
import torch
from torch import nn

from policies.actor import PopulationActor
from policies.config import EncoderConfig, PopulationActorConfig
from policies.energy import OperationCount, count_operations
from policies.energy.break_even import DATA_MOVEMENT, break_even
from policies.energy.constants import costs_named
from policies.energy.layer_count import LayerCount


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


def test_at_the_break_even_rate_energies_are_equal() -> None:
    spiking = OperationCount(
        {
            "embed": LayerCount(multiply_accumulates=100, dense=100, kind="linear"),
            "a": LayerCount(accumulates=300, dense=1000, kind="linear"),
            "b": LayerCount(accumulates=0, dense=500, kind="linear"),
            "mix": LayerCount(accumulates=50, dense=100, kind="attention"),
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
            "a": LayerCount(accumulates=100, dense=1000, kind="linear"),
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
    # The first layer's products, once, whatever the rates.
    fixed = spiking.layers["mlp.linears.0"].multiply_accumulates
    slots = 5 * (256 * 256 + 256 * 60)
    assert found.rate.value == pytest.approx((71_424 - fixed) * 4.6 / (slots * 0.9))
