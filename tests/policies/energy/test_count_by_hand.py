"""Small networks whose spikes are known, so that a reader can count again.

Neurons integrate without leak (v_threshold 0.5): an input of 1 a step fires at every step, one of
0.3 at every second, a negative one never.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor, PopulationBody
from policies.attention import PositionalAttention, make_attention
from policies.config import DecoderConfig, EncoderConfig, LIFConfig, PopulationActorConfig
from policies.energy import count_operations
from policies.normalization import TdBN
from policies.transformer import SpikingTransformer, TransformerConfig
from policies.value import ValueNetwork

STEPS = 4


def config(kind: str = "rate") -> PopulationActorConfig:
    return PopulationActorConfig(
        hidden_sizes=(3,),
        spike_steps=STEPS,
        encoder=EncoderConfig(pop_size=2),
        decoder=DecoderConfig(pop_size=2, kind=kind),  # type: ignore[arg-type]  # parametrized
        neuron=LIFConfig(v_decay=1.0, v_threshold=0.5),
    )


def fill(body: PopulationBody) -> Tensor:
    """Weights that make the spikes known, and the observation for it.

    2 observations with 2 fields each -> 3 hidden -> 2 output neurons.
    """
    hidden, out = body.mlp.layers()
    with torch.no_grad():
        # At an observation of 0 the first field answers 1 at every step, the second never.
        body.encoder.mean.copy_(torch.tensor([[0.0, 50.0], [0.0, 50.0]]))
        for layer in (hidden, out):
            layer.bias.zero_()
        # Hidden neurons 0 and 1 fire at every step, 2 never; one weight is missing.
        hidden.weight.copy_(
            torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0], [-1.0, -1.0, -1.0, -1.0]])
        )
        # Output neuron 0 gets 0.15 from each of them and fires at steps 2 and 4, 1 never.
        out.weight.copy_(torch.tensor([[0.15, 0.15, 1.0], [-1.0, -1.0, -1.0]]))
    return torch.zeros(1, 2)


def check_body(layers: dict[str, Any]) -> None:
    # A product for each observation's deviation, then two for each of 2 x 2 fields.
    assert layers["normalizer"].multiply_accumulates == 2
    assert layers["encoder"].multiply_accumulates == 2 * 4
    assert layers["encoder"].firing_rate == 2 / 4
    # Field 0 of observation 0: 4 spikes to 3 neurons; of observation 1: 4 spikes to 2.
    assert layers["mlp.linears.0"].accumulates == 4 * 3 + 4 * 2
    assert layers["mlp.linears.0"].dense == STEPS * 4 * 3
    assert layers["mlp.neurons.0"].firing_rate == pytest.approx(2 / 3)
    # 2 hidden neurons, 4 spikes each, to 2 neurons.
    assert layers["mlp.linears.1"].accumulates == 2 * 4 * 2
    assert layers["mlp.linears.1"].dense == STEPS * 3 * 2
    assert layers["mlp.neurons.1"].firing_rate == 2 / 8


def test_population_actor_with_rate_readout() -> None:
    actor = PopulationActor(2, 1, config())
    count = count_operations(actor, fill(actor))
    check_body(count.layers)
    # One of two neurons fired: its two spikes are counted, and the count meets its weight.
    assert count.layers["decoder"].multiply_accumulates == 1
    assert count.layers["decoder"].dense == 2
    assert count.accumulates == 20 + 16
    assert count.multiply_accumulates == 2 + 8 + 1
    assert count.dense == 2 + 8 + 48 + 24 + 2
    assert list(count.layers) == [
        "normalizer", "encoder", "mlp.linears.0", "mlp.neurons.0", "mlp.linears.1",
        "mlp.neurons.1", "decoder",
    ]  # fmt: skip
    assert count.uncounted == ()
    # 36 x 0.9 pJ + 11 x 4.6 pJ
    assert count.energy_nj == pytest.approx(0.083)


def test_a_charged_start_costs_what_its_spikes_cost() -> None:
    regular = config()
    counts = []
    for v_init in (0.0, 0.5):
        encoder = EncoderConfig(pop_size=2, v_init=v_init)
        actor = PopulationActor(2, 1, replace(regular, encoder=encoder))
        obs = fill(actor)
        with torch.no_grad():
            # Fields answer 0.4: 1.6 in 4 steps, one spike rounded down and two to nearest.
            actor.encoder.mean.fill_(1.0)
            actor.encoder.std.fill_(math.sqrt(-0.5 / math.log(0.4)))
        counts.append(count_operations(actor, obs).layers)
    for spikes, layers in zip((1, 2), counts, strict=True):
        check = layers["encoder"]
        assert (check.multiply_accumulates, check.firing_rate) == (2 * 4, spikes / STEPS)
        # Each of the 4 fields' spikes meets 3 weights, but for the one that is missing.
        assert layers["mlp.linears.0"].accumulates == spikes * (4 * 3 - 1)
        assert layers["mlp.linears.0"].dense == STEPS * 4 * 3


def test_population_actor_with_membrane_readout() -> None:
    actor = PopulationActor(2, 1, config("membrane"))
    count = count_operations(actor, fill(actor))
    check_body(count.layers)
    # Each of two spikes adds its weight.
    assert count.layers["decoder"].accumulates == 2
    assert count.layers["decoder"].multiply_accumulates == 0
    assert count.layers["decoder"].dense == STEPS * 2


def test_a_batch_is_averaged() -> None:
    actor = PopulationActor(2, 1, config())
    with torch.no_grad():
        actor.encoder.std.fill_(0.1)
    obs = fill(actor)
    # The second sample is beyond all fields: nothing spikes.
    count = count_operations(actor, torch.cat([obs, obs + 3.0]))
    assert count.accumulates == 36 / 2
    assert count.layers["encoder"].multiply_accumulates == 8
    assert count.layers["decoder"].multiply_accumulates == 1 / 2


def test_value_network() -> None:
    network = ValueNetwork(2, 2, config())
    count = count_operations(network, fill(network))
    check_body(count.layers)
    # Rates (1/2, 0): one active neuron meets one weight of the level and two of the differences.
    assert count.layers["readout.level"].multiply_accumulates == 1
    assert count.layers["readout.difference"].multiply_accumulates == 2
    assert count.layers["readout.level"].dense == 2
    assert count.layers["readout.difference"].dense == 2 * 2
    assert count.accumulates == 20 + 16
    assert count.multiply_accumulates == 2 + 8 + 1 + 2
    assert count.uncounted == ()


def block(attention: str) -> tuple[SpikingTransformer, Tensor]:
    """One block whose linear layers pass spikes on, so that all layers before the mixing see S.

    S = (1, 0), (1, 1), (0, 1)    3 tokens of 2 features, 4 spikes, the same at 2 spike steps
    """
    torch.manual_seed(0)
    net = SpikingTransformer(
        TransformerConfig(
            width=2, context=3, num_layers=1, spike_steps=2, window=2, mlp_ratio=1,
            normalization="tdbn", attention=attention,  # type: ignore[arg-type]  # parametrized
        )
    )  # fmt: skip
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                # Norms multiply by 1/2: a spike is a current of 2, or of next to nothing.
                module.weight.copy_(torch.tensor([[4.0, 1e-3], [1e-3, 4.0]]))
            assert not isinstance(module, TdBN) or bool((module.running_var == 1).all())
    return net, torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])


# Operations of a spike step of the mixing, and spikes that come out of it.
#
# PSSA, window 2, pairs (i, j) and features where both tokens of S fire:
#   (0, 0) 1, (1, 0) 1, (1, 1) 2, (2, 1) 1, (2, 2) 1: 6 additions; out (1, 0), (2, 1), (0, 2).
# SSSA and TSSA, scores S_i . S_j: (0, 0) 1, (1, 0) 1, (1, 1) 2, (2, 0) 0, (2, 1) 1, (2, 2) 1: 6
#   additions; spikes of S_j where the score is not 0: 1 + 1 + 2 + 0 + 2 + 1 = 7;
#   out (1, 0), (3, 2), (1, 2): 5 neurons fire.
# Softmax: the same 6, spikes of all 6 pairs 1 + 1 + 2 + 1 + 2 + 1 = 8; two products a pair; out
#   (1, 0), (1, 0.67), (0.60, 0.80): 5 neurons fire.
MIXED = {
    "pssa": (6, 0, 4, 2 * 5),
    "sssa": (13, 0, 5, 2 * 2 * 6),
    "tssa": (13, 0, 5, 2 * 2 * 6),
    "softmax": (14, 12, 5, 2 * 2 * 6 + 12),
}


@pytest.mark.parametrize("attention", list(MIXED))
def test_transformer_block(attention: str) -> None:
    net, x = block(attention)
    count = count_operations(net, x)
    adds, products, fired, dense = MIXED[attention]
    mix = count.layers["blocks.0.attention.mix"]
    # All twice: 2 spike steps.
    assert mix.accumulates == 2 * adds
    assert mix.multiply_accumulates == 2 * products
    assert mix.dense == 2 * dense
    # Query, key and value see 4 spikes, `out` those that fired; the MLP sees S and what was added.
    linears = {
        name.removeprefix("blocks.0.").removesuffix(".linear"): layer.accumulates
        for name, layer in count.layers.items()
        if name.endswith("linear")
    }
    assert linears == {
        "attention.query.current": 2 * 4 * 2,
        "attention.key.current": 2 * 4 * 2,
        "attention.value.current": 2 * 4 * 2,
        "attention.out": 2 * fired * 2,
        "mlp.up.current": 2 * fired * 2,
        "mlp.down": 2 * fired * 2,
    }
    assert count.accumulates == 2 * (3 * 8 + adds + 3 * fired * 2)
    # Norms behind 6 linear layers and behind the block: a product for each of 2 x 3 x 2 values.
    assert count.multiply_accumulates == 7 * 12 + 2 * products
    # Linear layers: 6 of 2 steps x 3 tokens x 2 x 2.
    assert count.dense == 6 * 24 + 7 * 12 + 2 * dense
    assert count.uncounted == ()
    folded = count_operations(net, x, norms="folded")
    assert folded.accumulates == count.accumulates
    assert folded.multiply_accumulates == 2 * products


class Attend(nn.Module):
    """Queries, keys and values as one batch-first input, [B, 3, T, L, D]."""

    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, qkv: Tensor, valid: Tensor | None = None) -> Tensor:
        out: Tensor = self.mix(*qkv.permute(1, 2, 0, 3, 4), valid)
        return out


# Two spike steps, two tokens, two features.
Q = torch.tensor([[[1.0, 0], [1, 1]], [[0, 0], [1, 0]]])
K = torch.tensor([[[1.0, 1], [0, 1]], [[1, 0], [0, 0]]])
V = torch.tensor([[[1.0, 0], [1, 1]], [[0, 1], [1, 1]]])
QKV = torch.stack([Q, K, V])[None]
# Scores q_i . k_j of pairs (0, 0), (1, 0), (1, 1):   step 0: 1, 2, 1    step 1: 0, 1, 0
# Spikes of v_j:                                      step 0: 1, 1, 2    step 1: 1, 1, 2
BY_HAND = {
    # step 0: 4 + 4; step 1: 1 + 1, where one score is not 0
    "sssa": (8 + 2, 0, 24),
    # scores 5, summed 1, 3, 1: none is 0, so all spikes of both steps, 4 + 4
    "tssa": (5 + 8, 0, 24),
    # as TSSA, and two products for 3 pairs at 2 steps
    "softmax": (5 + 8, 12, 24 + 12),
    # q, k and v: step 0: (0, 0) feature 0, (1, 0) feature 0, (1, 1) feature 1; step 1: none
    "pssa": (3, 0, 2 * 2 * 3),
}


@pytest.mark.parametrize("attention", list(BY_HAND))
def test_attention(attention: str) -> None:
    mix = Attend(make_attention(attention, num_heads=1, context=2, window=2))
    count = count_operations(mix, QKV)
    layer = count.layers["mix"]
    assert (layer.accumulates, layer.multiply_accumulates, layer.dense) == BY_HAND[attention]
    # Twice the batch, half of it padded in front: there only pair (1, 1) is left.
    left = {"sssa": 1 + 2, "tssa": 1 + 2 + 2, "softmax": 1 + 2 + 2, "pssa": 1}[attention]
    padded = count_operations(mix, torch.cat([QKV, QKV]), torch.tensor([[1.0, 1], [0, 1]]))
    assert padded.accumulates == (BY_HAND[attention][0] + left) / 2
    assert padded.dense == BY_HAND[attention][2]


def test_weights_and_window_of_pssa() -> None:
    mix = PositionalAttention(context=2, window=2)
    with torch.no_grad():
        mix.weight[1, 1] = 0.0  # query 1, key 0
        mix.weight[1, 0] = -0.3
    assert count_operations(Attend(mix), QKV).accumulates == 3 - 1
    narrow = count_operations(Attend(PositionalAttention(context=2, window=1)), QKV)
    assert (narrow.accumulates, narrow.dense) == (3 - 1, 2 * 2 * 2)
