"""The compiled layers of the transformer against its plain operations."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies import LIFConfig, SpikingTransformer, TransformerConfig
from policies.attention import PositionalAttention
from policies.fused_attention import positional_lif
from policies.fused_layers import norm_inputs, normed_lif
from policies.fused_transformer import runs_fused
from policies.normalization import NormConfig, make_norm
from policies.rates import RateHook
from policies.surrogate import SURROGATES
from policies.transformer import SpikeLinear
from tests.kernels import NEEDS_NUMBA

pytestmark = NEEDS_NUMBA
T, B, L, D = 4, 5, 7, 24
NEURONS = [
    LIFConfig(v_decay=0.25, detach_reset=True, surrogate=name, surrogate_width=1.5)
    for name in SURROGATES
] + [
    LIFConfig(v_decay=0.25, detach_reset=False, surrogate="arctan"),
    LIFConfig(v_decay=0.5, detach_reset=False, reset_mode="soft", surrogate="triangle"),
    LIFConfig(v_decay=0.5, detach_reset=True, reset_mode="soft", surrogate="sigmoid"),
]
KINDS = [("ptbn", 0.0), ("ptbn", 0.3), ("ptbn", 1.0), ("tdbn", 0.0), ("tdln", 0.0)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padding() -> Tensor:
    return (torch.arange(L) >= torch.arange(B)[:, None]).float()


def scatter(module: nn.Module) -> None:
    """Weights away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        noise = torch.rand(parameter.shape, generator=generator)
        parameter.data.add_(0.2 * noise)


def close(found: Tensor | None, expected: Tensor | None, scale: float = 1.0) -> None:
    """Equal within 1e-5 of the largest entry."""
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        largest = max(float(expected.abs().max()), 1e-3 * scale)
        assert float((found - expected).abs().max()) <= 1e-5 * largest


@pytest.mark.parametrize(("kind", "theta"), KINDS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("stream", [True, False, "dropped"])
def test_norm_and_neurons(kind: Any, theta: float, masked: bool, stream: Any) -> None:
    """Two norms side by side, the residual stream, LIF; the plain version in float64."""
    neuron = LIFConfig(v_decay=0.25, detach_reset=True, surrogate="triangle")
    config = NormConfig(kind=kind, masked=masked)
    norms = [make_norm(D, config) for _ in range(2)]
    for i, norm in enumerate(norms):
        scatter(norm)
        norm.get_parameter("weight" if kind != "ptbn" else "bn.weight").data.mul_(1.0 + i)
    double = [copy.deepcopy(norm).double() for norm in norms]
    y, residual = normal(T, B, L, 2 * D) + 0.5, normal(T, B, L, 2 * D, seed=2)
    bias = 0.3 * normal(2 * D, seed=3)
    probes = normal(2, T, B, L, 2 * D, seed=4)
    valid = padding()
    mask = (normal(T, B, L, 2 * D, seed=5) > -0.5) * 1.5 if stream == "dropped" else None

    def leaves(dtype: torch.dtype) -> list[Tensor]:
        return [x.to(dtype).requires_grad_() for x in (y, residual, bias)]

    plain = leaves(torch.float64)
    x = plain[0] + plain[2]
    parts = [n(p, theta, valid) for n, p in zip(double, x.chunk(2, -1), strict=True)]
    factors = 1.0 if mask is None else mask
    current = torch.cat(parts, -1) * factors + (plain[1] if stream else 0.0)
    lif = TransformerConfig(neuron=neuron, kernel="torch").neurons()
    spikes, _ = lif(current)
    loss = (spikes * probes[0]).sum() + (current * probes[1]).sum() * bool(stream)
    loss.backward()

    fused = leaves(torch.float32)
    out = normed_lif(
        fused[0], fused[2], norm_inputs(norms, theta), neuron, torch.float32,
        valid=valid if masked else None, residual=fused[1] if stream else None,
        mask=mask,
    )  # fmt: skip
    loss = (out.spikes * probes[0]).sum()
    if stream:
        torch.testing.assert_close(
            out.current.detach(), current.detach().float(), atol=1e-5, rtol=1e-5
        )
        loss = loss + (out.current * probes[1]).sum()
    loss.backward()

    assert torch.equal(out.spikes, spikes.float())
    assert 0.2 < float(out.spikes.detach().mean()) < 0.8
    torch.testing.assert_close(out.rates.mean(), out.spikes.detach().mean())
    for found, expected in zip(fused, plain, strict=True):
        reference = None if expected.grad is None else expected.grad.float()
        close(found.grad, reference)
    for ours, theirs in zip(norms, double, strict=True):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if theta == 0.0 and ".ln" in f".{name}" and kind == "ptbn":
                assert p.grad is None
                continue
            close(p.grad, None if q.grad is None else q.grad.float())
        for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a.double(), b.double(), atol=1e-6, rtol=1e-5, msg=name)


def test_a_batch_without_tokens_uses_running_statistics() -> None:
    norm = make_norm(D, NormConfig(kind="tdbn"))
    neuron, y = LIFConfig(), normal(T, B, L, D)
    outs = []
    for fused in (True, False):
        x = y.clone().requires_grad_()
        if fused:
            inputs = norm_inputs([norm], 0.0)
            spikes = normed_lif(
                x, None, inputs, neuron, torch.float32, valid=torch.zeros(B, L)
            ).spikes
        else:
            lif = TransformerConfig(neuron=neuron, kernel="torch").neurons()
            spikes, _ = lif(norm(x, 0.0, torch.zeros(B, L)))
        (spikes * y).sum().backward()
        outs.append((spikes.detach(), x.grad))
    assert torch.equal(outs[0][0], outs[1][0])
    close(outs[0][1], outs[1][1])
    assert float(norm.get_buffer("running_mean").abs().max()) == 0.0


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("window", [1, 3, 7])
def test_pssa_and_neurons(neuron: LIFConfig, window: int) -> None:
    mix = PositionalAttention(9, window)
    # Eighths add up without rounding, whatever the order.
    mix.weight.data.copy_((8.0 * normal(9, window)).round() / 8.0)
    spikes = (normal(T, B, L, 3 * D, seed=1) > 0.0).float()
    valid, probe = padding(), normal(T, B, L, D, seed=2)
    lif = TransformerConfig(neuron=neuron, kernel="torch").neurons()
    results = []
    for fused in (True, False):
        qkv = spikes.clone().requires_grad_()
        mix.weight.grad = None
        out = (
            positional_lif(qkv, valid, mix.weight, neuron).spikes
            if fused
            else lif(mix(*qkv.chunk(3, -1), valid))[0]
        )
        (out * probe).sum().backward()
        results.append((out.detach(), qkv.grad, mix.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert 0.005 < float(results[0][0].mean()) < 0.5
    close(results[0][1], results[1][1])
    close(results[0][2], results[1][2])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_pssa_over_a_long_context() -> None:
    """Longer than what is computed at once; also traced."""
    length, window = 300, 8
    mix = PositionalAttention(length, window)
    mix.weight.data.copy_((8.0 * normal(length, window)).round() / 8.0)
    qkv = (normal(2, 2, length, 3 * D) > 0.0).float()
    q, k, v = qkv.chunk(3, -1)
    valid = (torch.arange(length) >= torch.tensor([[0], [150]])).float()
    kv = k * v * valid[None, :, :, None]
    expected = torch.zeros_like(q)
    for o in range(window):
        shifted = nn.functional.pad(kv[:, :, : length - o], (0, 0, o, 0))
        expected = expected + mix.weight[:, o, None] * shifted
    expected = (q * expected).detach()
    assert torch.equal(mix(q, k, v, valid).detach(), expected)
    traced = torch.jit.trace(mix, (q, k, v, valid), check_trace=False)
    assert torch.equal(traced(q, k, v, valid).detach(), expected)
    neuron = LIFConfig(v_decay=0.0)
    spikes = positional_lif(qkv, valid, mix.weight, neuron).spikes
    assert torch.equal(spikes.detach(), (expected > neuron.v_threshold).float())


def network(kernel: Any, **changes: Any) -> SpikingTransformer:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"width": D, "context": 9, "num_layers": 2, "num_heads": 2}
    fields |= {"window": 3, "neuron": LIFConfig(v_decay=0.25, surrogate="triangle")}
    out = SpikingTransformer(TransformerConfig(kernel=kernel, **(fields | changes)))
    scatter(out)
    return out


CASES: list[dict[str, Any]] = [
    {},
    {"mask_statistics": False},
    {"normalization": "tdln"},
    {"normalization": "tdbn"},
    {"attention": "sssa"},
    {"attention": "tssa"},
    {"attention": "softmax", "neuron": LIFConfig(v_decay=0.25, v_threshold=0.47)},
]


@pytest.mark.parametrize("theta", [0.0, 0.4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_whole_network(case: dict[str, Any], theta: float) -> None:
    valid, probe = padding(), normal(B, L, D, seed=3)
    results: list[tuple[Any, ...]] = []
    for kernel in ("torch", "numba"):
        net = network(kernel, **case)
        x = normal(B, L, D).requires_grad_()
        assert runs_fused(net, x, theta) == (kernel == "numba")
        out = net(x, valid, theta)
        (out * probe * valid[..., None]).sum().backward()
        grads = {n: p.grad for n, p in net.named_parameters()}
        results.append((out.detach(), x.grad, grads, dict(net.named_buffers())))
    (out, grad, grads, buffers), (fused_out, fused_grad, fused_grads, fused_buffers) = results
    torch.testing.assert_close(fused_out, out, atol=1e-4, rtol=0.0)
    # Two float32 computations, each a little off; layer by layer see above.
    largest = max(float(g.abs().max()) for g in grads.values() if g is not None)
    assert float((fused_grad - grad).abs().max()) <= 1e-3 * float(grad.abs().max())
    for name, expected in grads.items():
        assert (expected is None) == (fused_grads[name] is None), name
        if expected is not None:
            error = float((fused_grads[name] - expected).abs().max())
            assert error <= 1e-3 * max(float(expected.abs().max()), 1e-2 * largest), name
    for name, expected in buffers.items():
        torch.testing.assert_close(fused_buffers[name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_bf16_rounds_as_the_plain_layers_do() -> None:
    """The same spikes from the same rounded matmul; and the backward is a gradient."""
    outs, grads = [], []
    for kernel in ("torch", "numba"):
        net = network(kernel, matmul="bf16")
        x = normal(B, L, D).requires_grad_()
        out = net(x, padding(), 0.0)
        (out * normal(B, L, D, seed=3) * padding()[..., None]).sum().backward()
        outs.append(out.detach())
        assert x.grad is not None
        grads.append(x.grad)
    torch.testing.assert_close(outs[1], outs[0], atol=1e-3, rtol=0.0)
    cosine = torch.cosine_similarity(grads[0].flatten(), grads[1].flatten(), dim=0)
    assert float(cosine) > 0.999


def test_bf16_linear_layer() -> None:
    layer = SpikeLinear(D, 3, "bf16")
    spikes = (normal(T, D) > 0.0).float()
    rounded = spikes @ layer.weight.bfloat16().float().t()
    expected = rounded.bfloat16().float() + layer.bias
    torch.testing.assert_close(layer(spikes), expected, atol=1e-2, rtol=1e-2)
    assert layer(spikes).dtype == torch.float32
    assert not torch.equal(layer(spikes), spikes @ layer.weight.t() + layer.bias)


@pytest.mark.parametrize("matmul", ["float32", "bf16"])
def test_evaluation_does_not_depend_on_the_kernel(matmul: Any) -> None:
    nets = {kernel: network(kernel, matmul=matmul) for kernel in ("torch", "fused", "numba")}
    for net in nets.values():
        net.load_state_dict(nets["torch"].state_dict())
        net.eval()
    x = normal(B, L, D)
    with torch.no_grad():
        expected = nets["torch"](x, padding())
        assert all(torch.equal(net(x, padding()), expected) for net in nets.values())


def test_what_runs_plain() -> None:
    x = normal(B, L, D)
    net = network("numba")
    assert runs_fused(net, x, 0.0)
    assert not runs_fused(net, x.double(), 0.0)
    assert not runs_fused(copy.deepcopy(net).eval(), x, 0.0)
    assert not runs_fused(copy.deepcopy(net).double(), x, 0.0)
    for changes in ({"advanced_norm": True}, {"kernel": "fused"}):
        other = SpikingTransformer(dataclasses.replace(net.config, **changes))
        assert not runs_fused(other, x, 0.0)
        assert other(x).shape == x.shape
    folded = network("numba")
    folded.fold_blocks()
    assert not runs_fused(folded, x, 0.0)
    handle = net.blocks[0].register_forward_hook(lambda *_: None)
    assert not runs_fused(net, x, 0.0)
    handle.remove()
    assert runs_fused(net, x, 0.0)


def test_rates_reach_their_hooks() -> None:
    rates: list[dict[str, Tensor]] = []
    for kernel in ("torch", "numba"):
        net, found = network(kernel), dict[str, Tensor]()
        for name, module in net.named_modules():
            if type(module).__name__ == "LIF":
                module.register_forward_hook(RateHook(name, found))
        net(normal(B, L, D), padding(), 0.0)
        rates.append(found)
    assert list(rates[0]) == list(rates[1])
    for name, rate in rates[0].items():
        torch.testing.assert_close(rates[1][name], rate, msg=name)
    assert all(0.0 < float(rate) < 1.0 for rate in rates[1].values())


def test_broken_tokens_are_seen() -> None:
    """With layer statistics a broken token stays itself and those after it."""
    for kernel in ("torch", "numba"):
        net = network(kernel, normalization="tdln")
        x = normal(B, L, D)
        x[2, 4, 0] = float("nan")
        out = net(x)
        assert bool(out[2, 4:].isnan().all())
        assert bool(out[2, :4].isfinite().all())
        assert bool(out[[0, 1, 3, 4]].isfinite().all())
