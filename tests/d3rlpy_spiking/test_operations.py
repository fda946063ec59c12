"""Operations of d3rlpy's transformers, by hand; test_fold.py counts folded networks."""

from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch

from d3rlpy_spiking import PopulationSpikingEncoderFactory
from d3rlpy_spiking.maze import WavefrontEncoderFactory, observe
from d3rlpy_spiking.operations import _planner, count_decision, count_operations
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    LENGTH,
    build,
    encoder,
    is_discrete,
    make_dataset,
)


def batch_for(algo: Any, size: int = 4) -> TorchTrajectoryMiniBatch:
    d3rlpy.seed(0)
    batch = make_dataset(is_discrete(algo)).sample_trajectory_batch(size, LENGTH)
    return TorchTrajectoryMiniBatch.from_batch(batch, device="cpu:0")


@pytest.mark.parametrize("name", list(CONFIGS))
def test_nothing_is_missed(name: str) -> None:
    algo = build(name)
    if name == "tacr":
        algo.impl.modules.transformer.eval()
    count = count_operations(algo, batch_for(algo))
    assert count.uncounted == ()
    assert 0 < count.accumulates + count.multiply_accumulates <= count.dense


def test_dense_decision_transformer_by_hand() -> None:
    d3rlpy.seed(0)
    config = d3rlpy.algos.DecisionTransformerConfig(
        context_size=3, num_layers=2, num_heads=2, encoder_factory=encoder(8), max_timestep=60
    )
    algo = config.create()
    algo.create_impl((5,), 2)
    data = make_dataset(False).sample_trajectory_batch(4, 3)
    batch = TorchTrajectoryMiniBatch.from_batch(data, device="cpu:0")
    count = count_operations(algo, batch)
    assert count.uncounted == ()
    # 3 steps make 8 tokens of 8 features (the last action is not seen); embeddings of 5 + 2 + 1
    # inputs, once a step.
    embeddings = 3 * (5 + 2 + 1) * 8
    # A block: four 8 x 8 and an MLP of 8 to 32 and back, for 8 tokens; 36 pairs of tokens.
    block = 8 * (4 * 64 + 2 * 8 * 32) + 36 * 2 * (8 + 2)
    head = 3 * 8 * 2
    # Layer norms: of the embedding, two a block, and the last; two products a value.
    norms = (1 + 2 * 2 + 1) * 2 * 8 * 8
    assert count.dense == embeddings + 2 * block + head + norms
    # Effective: padded or zero inputs alone are skipped, and what ReLU cut.
    assert 0.7 * count.dense < count.accumulates + count.multiply_accumulates < count.dense


@pytest.mark.parametrize("name", ["dsformer", "sdt"])
def test_norms_charged_or_folded(name: str) -> None:
    algo = build(name)
    batch = batch_for(algo)
    charged, folded = count_operations(algo, batch), count_operations(algo, batch, norms="folded")
    steps, tokens, width = 4, LENGTH if name == "dsformer" else 3 * LENGTH - 1, 16
    # PTBN in evaluation mode, a block: q, k, v, out and down of 16 features, up of 64; one at last.
    values = steps * tokens * (2 * (5 * width + 4 * width) + width)
    assert charged.multiply_accumulates - folded.multiply_accumulates == values
    assert charged.accumulates == folded.accumulates
    # The layer norm of the embedding stays.
    names = [n for n in folded.layers if n.endswith("embed_ln")]
    assert [folded.layers[n].multiply_accumulates for n in names] == [2 * tokens * width]


def test_embedding_runs_once_and_blocks_at_every_step() -> None:
    count = count_operations(build("dsformer"), batch_for(build("dsformer")))
    assert count.layers["encoder._layers.0"].dense == LENGTH * 5 * 16
    assert count.layers["head"].dense == LENGTH * 16 * 2
    query = count.layers["backbone.transformer.blocks.0.attention.query.current.linear"]
    assert query.dense == 4 * LENGTH * 16 * 16


@pytest.mark.parametrize("spiking", [True, False])
def test_planner_by_hand(spiking: bool) -> None:
    """A corridor of three cells, the goal at its left end, walls above and below."""
    passages = np.zeros((4, 1, 3), dtype=np.uint8)
    passages[1, 0, :2] = passages[3, 0, 1:] = 1  # right from 0 and 1, left from 1 and 2

    class Maze:
        shape = (1, 3)

        def __init__(self) -> None:
            self.passages = passages

    x = torch.from_numpy(observe(Maze(), (0, 0), [(0, 2), (0, 1)])).float()  # type: ignore[arg-type]
    made = WavefrontEncoderFactory(feature_size=2, iterations=3, spiking=spiking).create(
        x.shape[1:]
    )
    with torch.no_grad():
        # Open passages let all through, walls nothing.
        made.planner.gate_weight.fill_(100.0 / made.planner.gain)
        made.planner.gate_bias.fill_(-50.0 / made.planner.gain)
        made.planner.charge.fill_(2.0)
        made.planner.source.fill_(2.0)
        count = _planner(made.planner, (x,), None, 2)
    # Four open passages; all four preferences where the agent stands.
    if spiking:
        # The goal fires at 3 steps, its neighbour at 2, the last cell at 1; four neighbours each.
        assert count.accumulates == 4 + 4 * (3 + 2 + 1)
        assert count.multiply_accumulates == 4
    else:
        assert count.accumulates == 4
        assert count.multiply_accumulates == 4 * 3 * 3 + 4
    assert count.dense == 4 * 3 + 4 * 3 * 3 + 4


SPIKING = PopulationSpikingEncoderFactory(hidden_units=[8, 6], encoder_pop_size=4, spike_steps=3)
DECIDERS: dict[str, Any] = {
    "td3bc": d3rlpy.algos.TD3PlusBCConfig(actor_encoder_factory=SPIKING),
    "cql": d3rlpy.algos.CQLConfig(actor_encoder_factory=SPIKING),
    "iql": d3rlpy.algos.IQLConfig(actor_encoder_factory=SPIKING),
    "bc": d3rlpy.algos.BCConfig(encoder_factory=SPIKING),
    "bcq": d3rlpy.algos.BCQConfig(),
    "dqn": d3rlpy.algos.DQNConfig(encoder_factory=SPIKING),
    "discrete_bcq": d3rlpy.algos.DiscreteBCQConfig(encoder_factory=SPIKING),
    "discrete_cql": d3rlpy.algos.DiscreteCQLConfig(
        encoder_factory=SPIKING, q_func_factory=d3rlpy.models.QRQFunctionFactory()
    ),
}


@pytest.mark.parametrize("name", list(DECIDERS))
def test_nothing_of_a_decision_is_missed(name: str) -> None:
    d3rlpy.seed(0)
    algo = DECIDERS[name].create()
    algo.create_impl((5,), 3)
    count = count_decision(algo, torch.randn(4, 5))
    assert count.uncounted == ()
    assert count.dense > 0
    assert (count.accumulates > 0) == (name != "bcq")


def test_a_decision_by_hand() -> None:
    d3rlpy.seed(0)
    algo = DECIDERS["td3bc"].create()
    algo.create_impl((5,), 3)
    count = count_decision(algo, torch.randn(4, 5))
    # Policy alone: 5 inputs bent, 20 fields, 3 steps of 20 x 8 and 8 x 6, a dense head of 6 x 3.
    assert {name.split(".")[0] for name in count.layers} == {"policy"}
    assert count.dense == 2 * 5 + 2 * 20 + 3 * (20 * 8 + 8 * 6) + 6 * 3
    encoder = [layer for layer in count.layers.values() if layer.kind == "encoder"]
    assert sum(layer.multiply_accumulates for layer in encoder) == 2 * 5 + 2 * 20


def test_a_transformer_decides_on_contexts() -> None:
    with pytest.raises(TypeError, match="contexts of transformers go to count_operations"):
        count_decision(build("dsformer"), torch.zeros(1, 5))
