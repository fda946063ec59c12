"""DSFormer's released weights through load_dsformer: outputs, gradients, rates, statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from d3rlpy_spiking import load_dsformer
from d3rlpy_spiking.recording import recorded_rates
from tests.common import ROOT
from tests.policies.dsformer_reference import Reference, random_weights

REFERENCE = ROOT.parent / "shared" / "reference"
FLOOR = 5e-6
GOLDEN = [("pssa", "ptbn"), ("tssa", "ptbn"), ("pssa", "tdln"), ("pssa", "tdbn")]
needs_golden = pytest.mark.skipif(
    not (REFERENCE / "dsformer_pssa_ptbn.npz").is_file(),
    reason="the reference data of the released DSFormer is not beside the repository",
)


def golden(attention: str, normalization: str) -> tuple[Any, dict[str, Tensor]]:
    path = REFERENCE / f"dsformer_{attention}_{normalization}.npz"
    arrays = np.load(path)
    algo = load_dsformer(path, attention, normalization)
    return algo.impl.network, {n: torch.from_numpy(arrays[n]) for n in arrays.files}


def forward(network: Any, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Actions, and firing rates in call order."""
    timesteps = torch.zeros(data["mask"].shape, dtype=torch.int64)
    with recorded_rates(network) as rates:
        action = network(
            data["obs"], data["action"], data["return_to_go"], timesteps, 1.0 - data["mask"]
        )
    return action, torch.stack(list(rates.values()))


def masked_loss(action: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    valid = mask.bool()
    return (action[valid] - target[valid]).square().mean()


def released_gradient(network: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Our gradient of the released parameter `name`, spelled out apart from load_dsformer."""
    kind = name.split(".")[-1]
    if name.startswith("embed."):
        state = network.encoder._layers[0]
        if kind == "bias":
            return state.bias.grad
        parts = (state.weight, network.action_embed.weight, network.rtg_embed.weight)
        return torch.cat([p.grad for p in parts], dim=1)
    if name.startswith("embed_ln"):
        return getattr(network.embed_ln, kind).grad
    if name.startswith("predict_action"):
        return getattr(network.head, kind).grad
    if name.startswith("last_ln"):
        return _norm_gradient(network.backbone.transformer.norm, name)
    _, index, _, layer, *_ = name.split(".")
    block = network.backbone.transformer.blocks[int(index)]
    if layer == "pos_bias":
        return _square(block.attention.mix.weight.grad, shape)
    owner = {
        "q": block.attention.query.current,
        "k": block.attention.key.current,
        "v": block.attention.value.current,
        "last": block.attention.out,
        "fc1": block.mlp.up.current,
        "ln1": block.mlp.up.current,
        "fc2": block.mlp.down,
        "ln2": block.mlp.down,
    }[layer.split("_")[0]]
    if layer.endswith("_m") or layer.startswith("fc"):
        return getattr(owner.linear, kind).grad
    return _norm_gradient(owner.norm, name)


def _norm_gradient(norm: Any, name: str) -> Any:
    for released, ours in {"norm1": "ln", "norm2": "bn"}.items():
        if f".{released}." in name:
            norm = getattr(norm, ours)
    return getattr(norm, name.split(".")[-1]).grad


def _square(band: Tensor, shape: tuple[int, ...]) -> Tensor:
    full = torch.zeros(shape)
    for i in range(shape[0]):
        for offset in range(min(band.shape[1], i + 1)):
            full[i, i - offset] = band[i, offset]
    return full


@needs_golden
@pytest.mark.parametrize(("attention", "normalization"), GOLDEN)
def test_golden_training(attention: str, normalization: str) -> None:
    network, data = golden(attention, normalization)
    network.train()
    assert float(network.backbone.progress.theta) == 1.0
    action, rates = forward(network, data)
    torch.testing.assert_close(action, data["train.action"], atol=1e-5, rtol=0)
    torch.testing.assert_close(rates, data["train.firing_rates"], atol=1e-6, rtol=0)
    loss = masked_loss(action, data["action"], data["mask"])
    torch.testing.assert_close(loss, data["train.loss"], atol=1e-6, rtol=0)
    loss.backward()
    names = [n for n in data if n.startswith("grad.")]
    assert len(names) > 30
    worst = 0.0
    for name in names:
        theirs = data[name]
        ours = released_gradient(network, name.removeprefix("grad."), tuple(theirs.shape))
        scale = float(theirs.abs().max())
        error = float((ours - theirs).abs().max())
        # A bias in front of a batch norm has no gradient: what both hold there is rounding.
        assert error <= 1e-4 * scale + FLOOR, name
        worst = max(worst, error / scale if scale > FLOOR else 0.0)
    print(f"{attention} {normalization}: largest relative gradient error {worst:.1e}")


@needs_golden
@pytest.mark.parametrize(("attention", "normalization"), GOLDEN)
def test_golden_statistics_and_evaluation(
    attention: str, normalization: str, tmp_path: Path
) -> None:
    network, data = golden(attention, normalization)
    network.train()
    for _ in range(10):
        action, _ = forward(network, data)
        network.backbone.progress.advance()
    torch.testing.assert_close(action, data["train.action_after_10_forwards"], atol=1e-5, rtol=0)
    # The file's weights with the statistics after ten forwards, read anew: what we hold now.
    weights = {n.removeprefix("weight."): v for n, v in data.items() if n.startswith("weight.")}
    after = {n.removeprefix("after10.weight."): v for n, v in data.items() if "after10." in n}
    torch.save(weights | {n: v for n, v in after.items() if n in weights}, tmp_path / "after.pt")
    expected = load_dsformer(tmp_path / "after.pt", attention, normalization).impl.network
    ours = network.state_dict()
    for name, value in expected.state_dict().items():
        if "running" in name or (normalization == "ptbn" and ".progress." in name):
            torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-5)
    network.eval()
    action, rates = forward(network, data)
    torch.testing.assert_close(action, data["eval.action"], atol=1e-5, rtol=0)
    torch.testing.assert_close(rates, data["eval.firing_rates"], atol=1e-6, rtol=0)


# attention, normalization, heads, length, spike steps, window
SWEEP = [
    ("sssa", "ptbn", 1, 9, 4, 8),
    ("sssa", "tdbn", 4, 9, 3, 8),
    ("sssa", "tdln", 2, 5, 2, 8),
    ("tssa", "ptbn", 4, 9, 4, 8),
    ("tssa", "tdln", 2, 6, 1, 8),
    ("pssa", "ptbn", 2, 9, 4, 3),
    ("pssa", "ptbn", 1, 20, 2, 8),
    ("pssa", "tdbn", 1, 7, 8, 20),
    ("pssa", "tdln", 4, 9, 4, 1),
]


@pytest.mark.parametrize(("attention", "norm", "heads", "length", "steps", "window"), SWEEP)
@pytest.mark.parametrize("training", [True, False])
def test_against_written_out_equations(
    attention: str,
    norm: str,
    heads: int,
    length: int,
    steps: int,
    window: int,
    training: bool,
    tmp_path: Path,
) -> None:
    weights = random_weights(attention, norm, length=length)
    torch.save(weights, tmp_path / "released.pt")
    algo = load_dsformer(tmp_path / "released.pt", attention, norm, heads, steps, window)
    network = algo.impl.network
    network.train(training)
    leaves = {
        n: v.clone().requires_grad_(v.is_floating_point() and "running" not in n)
        for n, v in weights.items()
    }
    reference = Reference(leaves, attention, norm, heads, steps, window)
    generator = torch.Generator().manual_seed(1)
    data = {
        "obs": torch.randn(4, length, 5, generator=generator),
        "action": torch.rand(4, length, 2, generator=generator) * 2 - 1,
        "return_to_go": torch.randn(4, length, 1, generator=generator),
        "mask": (torch.arange(length) >= torch.arange(4)[:, None]).float(),
    }
    # The file says 40 of 100 steps are done: theta goes on from 0.6.
    theta = (0.6 if norm == "ptbn" else 1.0) if training else None
    expected = reference.forward(*data.values(), theta)  # type: ignore[call-arg,arg-type]
    action, rates = forward(network, data)
    torch.testing.assert_close(action, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(rates, reference.rates, atol=1e-6)
    assert min(reference.rates) > 0.0
    masked_loss(action, data["action"], data["mask"]).backward()
    masked_loss(expected, data["action"], data["mask"]).backward()
    for name, leaf in leaves.items():
        if leaf.grad is None:
            continue
        ours = released_gradient(network, name, tuple(leaf.shape))
        ours = torch.zeros_like(leaf) if ours is None else ours
        scale = float(leaf.grad.abs().max())
        assert float((ours - leaf.grad).abs().max()) <= 1e-4 * scale + FLOOR, name


def test_named_errors(tmp_path: Path) -> None:
    weights = random_weights("pssa", "ptbn")
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"missing .*does not fit|does not fit .*missing"):
        load_dsformer(tmp_path / "a.pt", "pssa", "tdln")
    with pytest.raises(ValueError, match="num_heads must divide the width"):
        load_dsformer(tmp_path / "a.pt", "pssa", "ptbn", num_heads=3)
    with pytest.raises(ValueError, match="must end in"):
        load_dsformer(tmp_path / "a.zip", "pssa", "ptbn")
    del weights["embed.weight"]
    torch.save(weights, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="no DSFormer in the names of its release"):
        load_dsformer(tmp_path / "b.pt", "pssa", "ptbn")
    with pytest.raises(FileNotFoundError):
        load_dsformer(tmp_path / "none.pt", "pssa", "ptbn")
