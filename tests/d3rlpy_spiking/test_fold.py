"""The folded network: the same decisions, no norm, and which operations remain."""

import functools
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d3rlpy_spiking.operations import count_operations
from policies.neurons import LIF
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    build,
    encoder,
    is_discrete,
    make_context,
    make_dataset,
    train,
)

FOLDABLE = [name for name in CONFIGS if not name.endswith("strl")]
ATTENTIONS = ("pssa", "tssa", "sssa")


@functools.cache
def trained(name: str, **changes: Any) -> Any:
    changes["encoder_factory"] = encoder(changes.pop("width", 16))
    algo = build(name, learning_rate=3e-3, ptbn_steps=5, **changes)
    train(algo, 50)  # until the running statistics are those of the data
    return algo


def spikes_of(algo: Any, batch: Any) -> tuple[list[Tensor], Tensor]:
    found: list[Tensor] = []
    handles = [
        m.register_forward_hook(lambda _m, _i, out: found.append(out[0]))
        for m in algo.impl.network.modules()
        if isinstance(m, LIF)
    ]
    algo.impl.modules.set_eval()
    with torch.no_grad():
        out = algo.impl.network(
            batch.observations, batch.actions, batch.returns_to_go, batch.timesteps, 1 - batch.masks
        )
    for handle in handles:
        handle.remove()
    return found, out[1] if isinstance(out, tuple) else out


def torch_batch(algo: Any) -> Any:
    from d3rlpy.torch_utility import TorchTrajectoryMiniBatch

    d3rlpy.seed(3)
    batch = make_dataset(is_discrete(algo)).sample_trajectory_batch(
        64, length=algo.config.context_size
    )
    return TorchTrajectoryMiniBatch.from_batch(batch, device="cpu:0")


MATRIX = [
    *(("dsformer", a, n) for a in ATTENTIONS for n in ("ptbn", "tdbn")),
    ("sdt", "pssa", "ptbn"),
    ("tacr", "tssa", "tdbn"),
    ("discrete_sdt", "tssa", "ptbn"),
    ("discrete_dsformer", "sssa", "tdbn"),
]


@pytest.mark.parametrize(("name", "attention", "normalization"), MATRIX)
def test_folded_decides_the_same(name: str, attention: str, normalization: str) -> None:
    algo = trained(name, attention=attention, normalization=normalization)
    folded = algo.fold()
    batch = torch_batch(algo)
    spikes, expected = spikes_of(algo, batch)
    folded_spikes, out = spikes_of(folded, batch)
    flips = sum(int((a != b).sum()) for a, b in zip(spikes, folded_spikes, strict=True))
    total = sum(a.numel() for a in spikes)
    print(f"{name} {attention} {normalization}: {flips} of {total} spikes flipped")
    # PSSA's mixing may stay silent: query, key and value must fire at once.
    assert sum(float(a.mean()) > 0.0 for a in spikes) >= 0.8 * len(spikes)
    assert flips == 0
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert algo.config.normalization == normalization


def test_folded_with_the_other_norm() -> None:
    algo = trained("dsformer", advanced_norm=True)
    batch = torch_batch(algo)
    spikes, expected = spikes_of(algo, batch)
    folded_spikes, out = spikes_of(algo.fold(), batch)
    assert all(torch.equal(a, b) for a, b in zip(spikes, folded_spikes, strict=True))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FOLDABLE)
def test_no_norm_is_left_and_it_lives_on(name: str, tmp_path: Any) -> None:
    folded = trained(name).fold()
    norms = [
        n
        for n, m in folded.impl.network.named_modules()
        if isinstance(m, nn.LayerNorm | nn.modules.batchnorm._BatchNorm)
    ]
    assert all("embed_ln" in n for n in norms)  # the embedding's own
    assert len(norms) <= 1
    inpt = make_context(folded)
    folded.save(str(tmp_path / "folded.d3"))
    again = d3rlpy.load_learnable(str(tmp_path / "folded.d3"))
    np.testing.assert_array_equal(again.predict(inpt), folded.predict(inpt))
    with pytest.raises(ValueError, match="folded already"):
        folded.fold()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_operations_that_remain(attention: str) -> None:
    algo = trained("dsformer", attention=attention, width=64).fold()
    batch = torch_batch(algo)
    count = count_operations(algo, batch)
    multiplying = {n for n, layer in count.layers.items() if layer.multiply_accumulates > 0}
    assert multiplying == {
        "encoder._layers.0",
        "action_embed",
        "rtg_embed",
        "embed_ln",
        "head",
    }
    # By hand: accumulates of a linear layer are its input spikes times its outputs.
    inputs: list[Tensor] = []
    layer = algo.impl.network.backbone.transformer.blocks[0].mlp.down.linear
    handle = layer.register_forward_hook(lambda _m, args, _o: inputs.append(args[0]))
    spikes_of(algo, batch)
    handle.remove()
    expected = float(inputs[0].sum()) * layer.out_features / len(batch.masks)
    name = "backbone.transformer.blocks.0.mlp.down.linear"
    assert count.layers[name].accumulates == pytest.approx(expected)
    mix = count.layers["backbone.transformer.blocks.0.attention.mix"]
    assert mix.accumulates > 0.0
    assert mix.multiply_accumulates == 0.0


def test_unfolded_norms_multiply() -> None:
    algo = trained("dsformer")
    count = count_operations(algo, torch_batch(algo))
    name = "backbone.transformer.blocks.0.mlp.down.norm.bn"
    # One product for each value: T * L * D.
    assert count.layers[name].multiply_accumulates == 4 * 6 * 16


def test_the_other_norm_s_shortcut_counts() -> None:
    count = count_operations(trained("dsformer", advanced_norm=True), torch_batch(trained("sdt")))
    assert count.layers["backbone.transformer.norm"].multiply_accumulates == 4 * 6 * 16


def test_what_cannot_be_folded_says_so_and_stays_whole() -> None:
    for changes, message in (
        ({"normalization": "tdln"}, "'tdln' cannot be folded"),
        ({"attention": "softmax"}, "attention='softmax' cannot be folded"),
    ):
        algo = trained("dsformer", **changes)
        inpt = make_context(algo)
        before = algo.predict(inpt)
        with pytest.raises(ValueError, match=message):
            algo.fold()
        np.testing.assert_array_equal(algo.predict(inpt), before)
