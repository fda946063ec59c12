"""When compiled layers run, and when they must not stand in for the modules."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune

from policies import LIF, LIFConfig, SpikingTransformer, Surrogate, transformer
from policies.attention import PositionalAttention
from policies.fused_attention import positional_lif
from policies.fused_layers import normed_lif
from policies.fused_transformer import FusedPass, runs_fused
from policies.normalization import TdBN
from policies.transformer import SpikeLinear
from tests.kernels import NEEDS_NUMBA
from tests.policies.test_transformer_fused import B, D, L, network, normal, padding

pytestmark = NEEDS_NUMBA


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled whenever the compiled layers run."""
    calls: list[str] = []

    class Spy(FusedPass):
        def run(self, x: Tensor) -> Tensor:
            calls.append("run")
            return super().run(x)

    monkeypatch.setattr(transformer, "FusedPass", Spy)
    return calls


def gradients(net: Any, **call: Any) -> tuple[Tensor, dict[str, Tensor | None]]:
    torch.manual_seed(1)
    out = net(normal(B, L, D).requires_grad_(), **call)
    (out * normal(B, L, D, seed=3)).sum().backward()
    return out.detach(), {name: p.grad for name, p in net.named_parameters()}


class Wrapped(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = -self.base(x)
        return out


class Turned(PositionalAttention):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        return -super().forward(q, k, v, valid)


def first(net: Any, kind: type[Any]) -> Any:
    return next(module for module in net.modules() if isinstance(module, kind))


def freeze_statistics(net: Any) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()


def own_forward(net: Any) -> None:
    linear = net.blocks[0].mlp.up.current.linear
    linear.forward = lambda x: -nn.functional.linear(x, linear.weight)


def wrapped(net: Any) -> None:
    net.blocks[0].mlp.down.linear = Wrapped(net.blocks[0].mlp.down.linear)


def other_mix(net: Any) -> None:
    mix = Turned(9, 3)
    mix.load_state_dict(net.blocks[1].attention.mix.state_dict())
    net.blocks[1].attention.mix = mix


def other_neuron(net: Any) -> None:
    config = dataclasses.replace(net.config.neuron, v_threshold=0.1)
    net.blocks[0].attention.key.neuron = LIF(config)


def other_shape(net: Any) -> None:
    first(net, LIF).spike_fn = Surrogate("arctan", 3.0)


def other_width(net: Any) -> None:
    first(net, LIF).spike_fn.width = 3.0


def smooth(net: Any) -> None:
    first(net, LIF).spike_fn = Surrogate("arctan").smooth


def set_on(kind: type[Any], name: str, value: Any) -> Callable[[Any], None]:
    def alter(net: Any) -> None:
        setattr(first(net, kind), name, value)

    return alter


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "frozen statistics": ("ptbn", freeze_statistics),
    "frozen statistics, tdbn": ("tdbn", freeze_statistics),
    "momentum": ("tdbn", set_on(nn.BatchNorm1d, "momentum", 0.5)),
    "momentum None": ("tdbn", set_on(nn.BatchNorm1d, "momentum", None)),
    "batch eps": ("tdbn", set_on(nn.BatchNorm1d, "eps", 0.1)),
    "layer eps": ("tdln", set_on(nn.LayerNorm, "eps", 0.1)),
    "layer eps, ptbn": ("ptbn", set_on(nn.LayerNorm, "eps", 0.1)),
    "mask": ("tdbn", set_on(nn.BatchNorm1d, "masked", False)),
    "block in evaluation mode": ("tdbn", lambda net: net.blocks[0].eval()),
    "own forward": ("tdln", own_forward),
    "wrapped linear": ("tdln", wrapped),
    "pruned linear": (
        "tdln",
        lambda net: prune.l1_unstructured(net.blocks[0].mlp.down.linear, "weight", 0.5),
    ),
    "mix": ("tdln", other_mix),
    "neuron": ("tdln", other_neuron),
    "surrogate": ("tdln", other_shape),
    "surrogate width": ("tdln", other_width),
    "smooth spikes": ("tdln", smooth),
    "bf16 in one layer": ("tdln", set_on(SpikeLinear, "matmul", "bf16")),
    "forward hook": ("tdln", lambda net: first(net, LIF).register_forward_hook(lambda *_: None)),
    "forward pre-hook": (
        "tdln", lambda net: first(net, LIF).register_forward_pre_hook(lambda *_: None)),
    "backward hook": (
        "tdln", lambda net: first(net, nn.Linear).register_full_backward_hook(lambda *_: None)),
    "backward pre-hook": (
        "tdln", lambda net: first(net, nn.Linear).register_full_backward_pre_hook(lambda *_: None)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_modules_run_plain(change: str, ran: list[str]) -> None:
    kind, alter = CHANGES[change]
    results = []
    for kernel in ("torch", "numba"):
        net: Any = network(kernel, normalization=kind)
        net(normal(B, L, D))
        if kernel == "numba":
            assert ran == ["run"]
        alter(net)
        out, found = gradients(net, valid=padding(), theta=0.4)
        results.append((out, found, dict(net.named_buffers())))
    assert ran == ["run"]
    (out, expected, buffers), (other, found, other_buffers) = results
    # Neither the neurons' kernel nor the first, compiled forward is equal to the last bit.
    torch.testing.assert_close(other, out, atol=1e-3, rtol=1e-3)
    for name, buffer in buffers.items():
        torch.testing.assert_close(other_buffers[name], buffer, atol=1e-4, rtol=1e-3, msg=name)
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None), name


def test_changes_matter() -> None:
    """Those above that change numbers at once, so that ignoring them would be seen."""
    valid = padding()
    for change in ("batch eps", "layer eps", "mask", "own forward", "wrapped linear", "mix"):
        kind, alter = CHANGES[change]
        net: Any = network("torch", normalization=kind)
        before = net(normal(B, L, D), valid, 0.4).detach()
        alter(net)
        after = net(normal(B, L, D), valid, 0.4).detach()
        assert float((after - before).abs().max()) > 1e-3, change


def test_other_dtypes_run_plain() -> None:
    x = normal(B, L, D)
    net: Any
    for part in ("blocks.0.mlp.down.linear", "norm"):
        net = network("numba", normalization="tdbn")
        assert runs_fused(net, x, 0.0)
        net.get_submodule(part).double()
        assert not runs_fused(net, x, 0.0)
    net = network("numba", normalization="tdbn")
    net.norm.running_var = net.norm.running_var.double()
    assert not runs_fused(net, x, 0.0)


def test_a_subclass_of_the_whole_runs_compiled(ran: list[str]) -> None:
    class Own(SpikingTransformer):
        pass

    net = Own(network("numba").config)
    net(normal(B, L, D))
    assert ran == ["run"]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_whoever_rewrites_operations_gets_them(ran: list[str]) -> None:
    net, x = network("numba"), normal(B, L, D)
    with torch.autocast("cpu", torch.float16):
        net(x)
    torch.jit.trace(net, x, check_trace=False)
    handle = register_module_forward_hook(lambda *_: None)
    net(x)
    handle.remove()
    weights = {name: p.detach() for name, p in net.named_parameters()}
    torch.func.functional_call(net, weights, (x,))
    assert ran == []
    net(x)
    assert ran == ["run"]


def test_a_tensor_theta_gives_every_parameter_a_gradient(ran: list[str]) -> None:
    """Data parallel training waits for all of them; 0 where the layer branch has no weight."""
    found = {}
    for kernel in ("torch", "numba"):
        net: Any = network(kernel)
        _, found[kernel] = gradients(net, theta=torch.tensor(0.0))
        layer = {n: g for n, g in found[kernel].items() if ".ln." in f".{n}"}
        assert layer
        for name, gradient in layer.items():
            assert gradient is not None, name
            assert float(gradient.abs().max()) == 0.0, name
        assert all(gradient is not None for gradient in found[kernel].values())
    assert ran == ["run"]


@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("attention", ["pssa", "sssa", "softmax"])
def test_dropout_draws_what_the_modules_draw(attention: str, p: float, ran: list[str]) -> None:
    """The same seed drops the same features, of attention weights and of branches."""
    results = []
    neuron = LIFConfig(v_decay=0.25, v_threshold=0.47, surrogate="triangle")
    for kernel in ("torch", "numba"):
        net: Any = network(
            kernel, attention=attention, attn_dropout=0.4, resid_dropout=0.1, neuron=neuron
        )
        for block in net.blocks:
            block.dropout.p = p  # what counts is the module's
        results.append(gradients(net, valid=padding(), theta=0.4))
    assert ran == ["run"]
    (out, expected), (other, found) = results
    torch.testing.assert_close(other, out, atol=1e-4, rtol=0.0)
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        actual = found[name]
        assert gradient is not None
        assert actual is not None
        error = float((actual - gradient).abs().max())
        assert error <= 1e-3 * max(float(gradient.abs().max()), 1e-2 * largest), name
    without = network("numba", attention=attention, neuron=neuron)
    assert not torch.allclose(without(normal(B, L, D), padding(), 0.4), other, atol=1e-2)


def test_each_dropout_acts_alone() -> None:
    """Skipping one of them would show."""
    plain = network("numba")(normal(B, L, D), padding(), 0.4)
    for name in ("attn_dropout", "resid_dropout"):
        net: Any = network("numba", **{name: 0.5})
        torch.manual_seed(0)
        dropped = net(normal(B, L, D), padding(), 0.4)
        assert not torch.allclose(dropped, plain, atol=1e-2), name
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        net_plain = net(normal(B, L, D), padding(), 0.4)
        torch.testing.assert_close(net_plain, plain)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", ["ptbn", "tdbn", "tdln"])
@pytest.mark.parametrize("kernel", ["fused", "numba"])
def test_second_derivatives_need_the_plain_kernel(kernel: str, kind: str, frozen: bool) -> None:
    """With frozen weights and a loss linear in the output nothing else sees the mistake."""
    x = normal(B, L, D).requires_grad_()
    for name in (kernel, "torch"):
        net: Any = network(name, normalization=kind, neuron=LIFConfig(surrogate="arctan"))
        for parameter, weight in net.named_parameters():
            if frozen and ("linear" in parameter or "mix" in parameter):
                weight.requires_grad_(False)
        loss = (net(x, None, 0.4) * normal(B, L, D, seed=3)).sum()
        if name != "torch":
            with pytest.raises(RuntimeError, match="kernel='torch'"):
                torch.autograd.grad(loss, x, create_graph=True)
            continue
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        grad.square().mean().backward()
        assert net.norm.get_parameter("ln.weight" if kind == "ptbn" else "weight").grad is not None


def test_each_compiled_layer_refuses_the_second_derivative() -> None:
    qkv = (normal(2, B, L, 3 * D) > 0.0).float().requires_grad_()
    mixed = positional_lif(qkv, None, torch.ones(L, 3), LIFConfig()).spikes
    y = normal(2, B, L, D).requires_grad_()
    fired = normed_lif(y, None, None, LIFConfig(), torch.float32).spikes
    for out, x in ((mixed, qkv), (fired, y)):
        with pytest.raises(RuntimeError, match="kernel='torch'"):
            torch.autograd.grad(out.sum(), x, create_graph=True)


def test_a_gain_changed_before_backward_is_an_error() -> None:
    net: Any = network("numba", normalization="tdbn")
    out = net(normal(B, L, D))
    with torch.no_grad():
        net.blocks[0].mlp.down.norm.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("kind", ["ptbn", "tdbn"])
def test_no_valid_token(kind: str, ran: list[str]) -> None:
    """Running statistics stand in; the bias in front of them gets a gradient then."""
    results = [
        gradients(network(kernel, normalization=kind), valid=torch.zeros(B, L), theta=0.3)
        for kernel in ("torch", "numba")
    ]
    assert ran == ["run"]
    (out, expected), (other, found) = results
    torch.testing.assert_close(other, out, atol=1e-4, rtol=1e-4)
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        actual = found[name]
        assert gradient is not None
        assert actual is not None
        error = float((actual - gradient).abs().max())
        assert error <= 1e-3 * max(float(gradient.abs().max()), 1e-2 * largest), name
    assert float(expected["blocks.0.mlp.down.linear.bias"].abs().max()) > 0.1  # type: ignore[union-attr]


def test_nothing_and_one_number() -> None:
    for kernel in ("torch", "numba"):
        assert network(kernel)(normal(0, L, D)).shape == (0, L, D)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            network(kernel, normalization="tdbn", spike_steps=1)(normal(1, 1, D))


@pytest.mark.parametrize(
    "part",
    [
        "attention.query.current", "attention.key.current", "attention.value.current",
        "attention.out", "mlp.up.current", "mlp.down",
    ],
)  # fmt: skip
def test_broken_weights_are_seen(part: str, ran: list[str]) -> None:
    """In the last block too, whose marks no later neuron would make again."""
    for block in (0, 1):
        net: Any = network("numba", normalization="tdln")
        net.blocks[block].get_parameter(f"{part}.linear.bias").data[0] = float("nan")
        assert bool(net(normal(B, L, D), padding()).isnan().all())
    assert ran == ["run", "run"]


def test_a_broken_padded_token_reaches_no_other() -> None:
    valid = torch.ones(B, L)
    valid[2, 3] = 0.0
    x = normal(B, L, D)
    x[2, 3, 0] = float("nan")
    for kernel in ("torch", "numba"):
        out = network(kernel, normalization="tdln")(x, valid)
        assert bool(out[2, 3].isnan().all())
        out = out.detach().clone()
        out[2, 3] = 0.0
        assert bool(out.isfinite().all())


def test_copies_run_compiled(ran: list[str]) -> None:
    copy.deepcopy(network("numba"))(normal(B, L, D))
    assert ran == ["run"]


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_masked_statistics_follow_the_norms_momentum(momentum: float | None) -> None:
    """As PyTorch's own batch norm, where no token is padded."""
    norms = [TdBN(D, 0.5, masked) for masked in (True, False)]
    for norm in norms:
        norm.momentum = momentum
        for seed in range(3):
            norm(normal(4, B, L, D, seed=seed), valid=torch.ones(B, L))
    for ours, theirs in zip(norms[0].buffers(), norms[1].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
