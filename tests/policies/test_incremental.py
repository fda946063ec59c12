"""Cached evaluation against the plain transformer."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies import LIFConfig, SpikingTransformer, TransformerConfig
from policies.attention import PositionalAttention
from policies.incremental import IncrementalTransformer, _NumbaCache
from policies.incremental_torch import TorchCache
from tests.kernels import NEEDS_NUMBA, NUMBA

D, CONTEXT, KEEP = 24, 10, 4
KERNELS = pytest.mark.parametrize("kernel", ["torch", NUMBA])
# Not one half: averages by softmax often are, up to their last bit.
THRESHOLD = 0.47


def network(attention: Any, normalization: Any = "ptbn", **changes: Any) -> Any:
    torch.manual_seed(0)
    neuron = LIFConfig(v_decay=0.25, v_threshold=THRESHOLD, detach_reset=True)
    fields: dict[str, Any] = {"neuron": neuron} | changes
    config = TransformerConfig(
        width=D, context=CONTEXT, num_layers=2, num_heads=2, window=3, attention=attention,
        normalization=normalization, **fields,
    )  # fmt: skip
    net = SpikingTransformer(config)
    for name, parameter in net.named_parameters():
        if name.endswith("mix.weight"):
            parameter.data.normal_(1.0, 0.5)
        elif ".norm." in name and name.endswith("bias"):
            # Queries, keys and values fire often enough to meet.
            parameter.data.uniform_(0.2, 0.9 if ".current." in name else 0.5)
    for seed in range(20):
        net(tokens(seed)[None], None, 0.0)  # running statistics
    return net.eval()


def tokens(seed: int, length: int = CONTEXT) -> Tensor:
    return torch.randn(length, D, generator=torch.Generator().manual_seed(seed))


def run(cached: IncrementalTransformer, x: Tensor) -> Tensor:
    return torch.stack([cached.append(token) for token in x])


CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((a, n, {}) for a in ("pssa", "sssa", "tssa", "softmax") for n in ("ptbn", "tdbn", "tdln")),
    ("pssa", "ptbn", {"advanced_norm": True}),
    ("sssa", "ptbn", {"neuron": LIFConfig(v_decay=0.5, v_threshold=0.4, reset_mode="soft")}),
    ("tssa", "ptbn", {"spike_steps": 1}),
]


@KERNELS
@pytest.mark.parametrize(("attention", "normalization", "changes"), CASES)
def test_equals_the_plain_network(
    attention: str, normalization: str, changes: dict[str, Any], kernel: Any
) -> None:
    net = network(attention, normalization, **changes)
    cached = IncrementalTransformer(net, kernel=kernel)
    double = copy.deepcopy(net).double()
    for seed in range(3):
        x = tokens(100 + seed)
        cached.reset()
        with torch.no_grad():
            expected = double(x.double()[None])[0].float()
        torch.testing.assert_close(run(cached, x), expected, atol=1e-5, rtol=0.0)
        assert len(cached) == CONTEXT


@KERNELS
@pytest.mark.parametrize("attention", ["pssa", "sssa", "tssa", "softmax"])
def test_a_token_matters_to_those_behind_it(attention: str, kernel: Any) -> None:
    cached = IncrementalTransformer(network(attention), kernel=kernel)
    x = tokens(1)
    expected = run(cached, x)
    x[1] = tokens(7)[0]
    cached.reset()
    found = run(cached, x)
    assert torch.equal(found[0], expected[0])
    assert float((found[2:] - expected[2:]).abs().max()) > 1e-2


@KERNELS
@pytest.mark.parametrize("attention", ["pssa", "sssa", "tssa"])
def test_folded(attention: str, kernel: Any) -> None:
    net = network(attention)
    net.fold_blocks()
    x = tokens(5)
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(x.double()[None])[0].float()
    found = run(IncrementalTransformer(net, kernel=kernel), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)


@KERNELS
@pytest.mark.parametrize("attention", ["pssa", "sssa", "tssa", "softmax"])
def test_a_full_context_slides(attention: str, kernel: Any) -> None:
    net = network(attention)
    double = copy.deepcopy(net).double()
    cached = IncrementalTransformer(net, keep=KEEP, kernel=kernel)
    x = tokens(3, 3 * CONTEXT)
    start = 0
    for i, token in enumerate(x):
        if i - start == CONTEXT:
            start = i - KEEP
        with torch.no_grad():
            expected = double(x[start : i + 1].double()[None])[0, -1].float()
        torch.testing.assert_close(cached.append(token), expected, atol=1e-5, rtol=0.0)
        assert len(cached) == i + 1 - start
    assert torch.equal(torch.stack(cached.tokens), x[start:])


def test_tokens_are_copied_and_the_network_left_alone() -> None:
    net = network("pssa")
    before = copy.deepcopy(net.state_dict())
    cached = IncrementalTransformer(net, keep=1)
    x = tokens(1, 2 * CONTEXT)
    expected = run(cached, x)
    cached.reset()
    buffer = torch.empty(D)
    net.train()  # the copy stays in evaluation mode
    found = []
    for token in x:
        buffer.copy_(token)
        found.append(cached.append(buffer))
    assert torch.equal(torch.stack(found), expected)
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True)
    )


def test_what_it_refuses() -> None:
    net = network("pssa")
    with pytest.raises(ValueError, match="keep must be below the context of 10 tokens, got 10"):
        IncrementalTransformer(net, keep=CONTEXT)
    with pytest.raises(ValueError, match="keep must be"):
        IncrementalTransformer(net, keep=0)
    cached = IncrementalTransformer(net)
    with pytest.raises(ValueError, match=r"token must be \[24\], got \(1, 24\)"):
        cached.append(tokens(0)[:1])
    with pytest.raises(ValueError, match="finite"):
        cached.append(torch.full((D,), float("inf")))
    assert len(cached) == 0
    with pytest.raises(ValueError, match="kernel must be one of"):
        IncrementalTransformer(net, kernel="cuda")  # type: ignore[arg-type]
    for name in ("blocks.0.mlp.down.linear.weight", "blocks.1.mlp.down.norm.bn.running_var"):
        broken = network("pssa")
        broken.state_dict()[name].view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match=f"weights that are NaN or infinite .in {name}"):
            IncrementalTransformer(broken)
    net.blocks[0].attention.mix = Doubled(CONTEXT, 3)
    with pytest.raises(TypeError, match="attention by Doubled cannot be cached"):
        IncrementalTransformer(net)


class Doubled(PositionalAttention):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        return 2.0 * super().forward(q, k, v, valid)


@KERNELS
def test_restart(kernel: Any) -> None:
    cached = IncrementalTransformer(network("pssa"), kernel=kernel)
    x = tokens(3, CONTEXT + 1)
    expected = run(cached, x[:CONTEXT])
    for bad, message in (
        (list(x), "tokens must be at most 10, the context, got 11"),
        ([x[0], x[0, :-1]], r"tokens\[1\] must be \[24\], got \(23,\)"),
        ([torch.full((D,), float("nan"))], r"tokens\[0\] must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            cached.restart(bad)
        assert len(cached) == CONTEXT
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got ndarray"):
        cached.restart([x[0].numpy()])  # type: ignore[list-item]
    cached.restart(list(x[:4]))
    assert len(cached) == 4
    assert torch.equal(run(cached, x[4:CONTEXT]), expected[4:])


@NEEDS_NUMBA
def test_what_runs_compiled() -> None:
    net = network("pssa")
    assert type(IncrementalTransformer(net).cache) is _NumbaCache
    assert type(IncrementalTransformer(net, kernel="torch").cache) is TorchCache
    wrapped = copy.deepcopy(net)
    wrapped.blocks[0].mlp.down.linear = Wrapped(wrapped.blocks[0].mlp.down.linear)
    x = tokens(4)
    for other, dtype in (
        (wrapped, torch.float32),
        (copy.deepcopy(net).double(), torch.float64),
        (copy.deepcopy(net).bfloat16(), torch.bfloat16),
    ):
        cached = IncrementalTransformer(other)
        assert type(cached.cache) is TorchCache
        found = run(cached, x)
        assert found.dtype == dtype
        assert bool(found.isfinite().all())
    with torch.no_grad():
        torch.testing.assert_close(run(IncrementalTransformer(wrapped), x), wrapped(x[None])[0])


class Wrapped(nn.Module):
    """As adapters wrap a layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 0.5 * self.base(x)
        return out


LARGE = [
    "attention.query.current.linear.bias",
    "attention.key.current.linear.bias",
    "attention.value.current.linear.bias",
    "attention.out.linear.bias",
    "mlp.up.current.linear.bias",
    "mlp.down.linear.bias",
]


@KERNELS
@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("name", LARGE)
def test_overflow_comes_out_as_nan(name: str, block: int, kernel: Any) -> None:
    """Weights may be finite and their sums not; spikes would hide it."""
    net = network("pssa", "tdbn")
    part = net.blocks[block].get_parameter(name)
    part.data[0] = 3e38
    norm = net.blocks[block].get_submodule(name.replace("linear.bias", "norm"))
    norm.get_parameter("weight").data.fill_(100.0)
    x = tokens(4)
    cached = IncrementalTransformer(net, kernel=kernel)
    found = run(cached, x)
    with torch.no_grad():
        expected = net(x[None])[0]
    assert not bool(expected.isfinite().all(dim=1).any())
    assert torch.equal(found.isnan(), expected.isnan())


@KERNELS
def test_a_broken_key_reaches_later_tokens_until_reset(kernel: Any) -> None:
    neuron = LIFConfig(v_decay=1.0, v_threshold=THRESHOLD, reset_mode="soft")
    net = network("pssa", "tdbn", neuron=neuron)
    x = tokens(4)
    x[3, 0] = 3e38  # twice that is infinite
    cached = IncrementalTransformer(net, kernel=kernel)
    assert type(cached.cache) is (_NumbaCache if kernel == "numba" else TorchCache)
    found = run(cached, x)
    with torch.no_grad():
        expected = net(x[None])[0]
    assert torch.equal(found.isnan(), expected.isnan())
    assert bool(found[3:].isnan().all())
    assert bool(found[:3].isfinite().all())
    cached.reset()
    assert bool(run(cached, tokens(4)).isfinite().all())
