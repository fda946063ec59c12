"""Autocast to bfloat16 is `matmul="bf16"`: the same kernels, the same bits."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies import spiking_mlp
from policies.actor import PopulationActor
from policies.config import DecoderConfig, EncoderConfig, PopulationActorConfig
from policies.kernels import stack as stack_module
from policies.kernels.choice import Kernel, Matmul, has_numba
from policies.normalization import TdBN
from policies.spiking_mlp import SpikingMLP
from policies.transformer import SpikingTransformer, TransformerConfig
from policies.value import ValueNetwork
from tests.kernels import NEEDS_NUMBA

KERNELS: tuple[Kernel, ...] = ("torch", "fused", *(("numba",) if has_numba() else ()))
MATMULS: tuple[Matmul, ...] = ("float32", "exact", "bf16")


def make(kernel: Kernel, matmul: Matmul, **settings: Any) -> PopulationActor:
    torch.manual_seed(0)
    backward: Any = "bf16" if settings.pop("bf16_backward", False) else "auto"
    config = PopulationActorConfig(
        hidden_sizes=(96, 64),
        kernel=kernel,
        matmul=matmul,
        matmul_backward=backward,
        **settings,
    )
    return PopulationActor(5, 3, config)


def reference(kernel: Kernel, **settings: Any) -> PopulationActor:
    return make(kernel, "bf16", bf16_backward=True, **settings)


def autocast(dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", dtype, enabled=enabled)


def observations(batch: int = 33) -> Tensor:
    return torch.randn(batch, 5, generator=torch.Generator().manual_seed(2)) * 2


def run(net: nn.Module, x: Tensor, forward: bool, backward: bool) -> dict[str, Tensor]:
    """Result and gradients, each with autocast or without."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    with autocast(enabled=forward):
        out = net(x)
    assert out.dtype == torch.float32
    loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
    with autocast(enabled=backward):
        loss.backward()
    assert x.grad is not None
    found = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    return {"out": out.detach(), "x": x.grad, **found}


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matmul", MATMULS)
@pytest.mark.parametrize("encoder", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize("backward", [False, True])
def test_autocast_is_bf16(kernel: Kernel, matmul: Matmul, encoder: Any, backward: bool) -> None:
    if kernel == "torch" and encoder == "analog" and backward:
        pytest.skip("PyTorch's own backward of a product of real numbers obeys autocast")
    settings: dict[str, Any] = {"encoder": EncoderConfig(kind=encoder)}
    expected = run(reference(kernel, **settings), observations(), False, False)
    ours = run(make(kernel, matmul, **settings), observations(), True, backward)
    assert_same(ours, expected)
    plain = run(make(kernel, "float32", **settings), observations(), False, False)
    weight = "mlp.linears.1.weight"
    assert not torch.equal(ours[weight], plain[weight])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matmul", MATMULS)
def test_backward_under_autocast_alone_changes_nothing(kernel: Kernel, matmul: Matmul) -> None:
    if kernel == "torch" and matmul == "float32":
        pytest.skip("PyTorch's own backward of its own matmul obeys autocast")
    net = make(kernel, matmul)
    expected = run(copy.deepcopy(net), observations(), False, False)
    assert_same(run(net, observations(), False, True), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matmul", MATMULS)
@pytest.mark.parametrize("kind", ["rate", "membrane"])
def test_readouts_and_values_stay_float32(kernel: Kernel, matmul: Matmul, kind: Any) -> None:
    settings: dict[str, Any] = {"decoder": DecoderConfig(kind=kind)}
    expected = run(reference(kernel, **settings), observations(), False, False)
    assert_same(run(make(kernel, matmul, **settings), observations(), True, False), expected)
    values = []
    runs: tuple[tuple[Matmul, bool], ...] = (("bf16", False), (matmul, True))
    for own, on in runs:
        torch.manual_seed(0)
        config = PopulationActorConfig(
            hidden_sizes=(24,), kernel=kernel, matmul=own, matmul_backward="bf16", **settings
        )
        values.append(run(ValueNetwork(5, 2, config), observations(), on, False))
    assert_same(values[1], values[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_layers_on_given_spikes(kernel: Kernel) -> None:
    spikes = (torch.rand(4, 9, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    found = []
    runs: tuple[tuple[Matmul, bool], ...] = (("bf16", False), ("float32", True), ("exact", True))
    for matmul, on in runs:
        torch.manual_seed(0)
        mlp = SpikingMLP([12, 20, 6], matmul=matmul, kernel=kernel)
        found.append(run(mlp, spikes, on, on))
    assert 0 < float(found[0]["out"].mean()) < 1
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])
    with autocast():  # spikes from an operation that has rounded
        assert torch.equal(mlp(spikes.bfloat16()), found[0]["out"])


def test_kernels_run_under_bfloat16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    original = stack_module.run_stack

    def spy(stack: Any, *tensors: Any) -> Tensor:
        ran.append(stack.matmul)
        assert not torch.is_autocast_enabled("cpu") or stack.matmul == "bf16"
        return original(stack, *tensors)

    monkeypatch.setattr(spiking_mlp, "run_stack", spy)
    net = make(KERNELS[-1], "float32")
    for dtype, enabled in ((torch.float16, True), (torch.float16, False), (torch.bfloat16, True)):
        with autocast(dtype, enabled):
            out = net(observations())
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())
        out.sum().backward()
    assert ran == ["float32", "bf16"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matmul", MATMULS)
def test_float16_rounds_matmuls_and_nothing_else(kernel: Kernel, matmul: Matmul) -> None:
    net, seen = make(kernel, matmul).eval(), []
    for part in (*net.mlp.linears, *net.mlp.neurons):
        part.register_forward_hook(lambda _, __, out: seen.append(out))
    with autocast(torch.float16), torch.no_grad():
        assert net(observations()).dtype == torch.float32
    assert [out.dtype for out in seen if isinstance(out, Tensor)] == [torch.float16] * 3
    assert all(out[1].v.dtype == torch.float32 for out in seen if isinstance(out, tuple))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matmul", MATMULS)
def test_a_monitor_changes_no_spike(kernel: Kernel, matmul: Matmul) -> None:
    net, seen = make(kernel, matmul).eval(), []
    with autocast(), torch.no_grad():
        expected = net(observations())
        for part in (*net.mlp.linears, *net.mlp.neurons):
            part.register_forward_hook(lambda _, __, out: seen.append(out))
        assert torch.equal(net(observations()), expected)
    assert {out.dtype for out in seen if isinstance(out, Tensor)} == {torch.float32}
    assert {out[1].v.dtype for out in seen if isinstance(out, tuple)} == {torch.float32}


@pytest.mark.parametrize("kernel", KERNELS)
def test_rollout_and_training_compute_the_same(kernel: Kernel) -> None:
    """Without gradients few observations go event by event, but not under autocast."""
    net = make(kernel, "exact").eval()
    for batch in (1, 4, 33):
        obs = observations(batch)
        with torch.no_grad(), autocast():
            assert net.by_events(obs, True) is None
            acted = net(obs, deterministic=True)
        with autocast():
            assert torch.equal(net(obs, deterministic=True), acted)
    with torch.no_grad():
        assert (net.by_events(observations(1), True) is not None) == (kernel == "numba")


@pytest.mark.parametrize("kernel", KERNELS)
def test_arithmetics_take_turns(kernel: Kernel) -> None:
    """What one keeps of the weights is no other's."""
    net = make(kernel, "exact").eval()
    rounded = reference(kernel).eval()
    for scale, on in itertools.product((1.0, 1.3), (False, True, True, False)):
        with torch.no_grad():
            for linear in net.mlp.layers():
                linear.weight.mul_(scale)
            rounded.load_state_dict(net.state_dict())
            fresh = make(kernel, "exact").eval()
            fresh.load_state_dict(net.state_dict())
            with autocast(enabled=on):
                ours = net(observations())
            assert torch.equal(ours, (rounded if on else fresh)(observations()))


def transformer(
    matmul: Matmul, kernel: Kernel, normalization: Any = "ptbn", attention: Any = "pssa"
) -> SpikingTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        width=16,
        context=5,
        num_layers=2,
        matmul=matmul,
        kernel=kernel,
        normalization=normalization,
        attention=attention,
    )
    return SpikingTransformer(config)


def tokens() -> tuple[Tensor, Tensor]:
    """Tokens [6, 5, 16], and which of them exist, [6, 5]."""
    valid = torch.ones(6, 5)
    valid[0, :3] = 0.0
    return torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(0)), valid


@NEEDS_NUMBA
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("normalization", ["ptbn", "tdbn", "tdln"])
def test_compiled_training_of_a_transformer(normalization: Any, backward: bool) -> None:
    x = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(0))
    rounded = transformer("bf16", "numba", normalization)
    expected = run(rounded, x, False, False)
    ours = transformer("float32", "numba", normalization)
    assert_same(run(ours, x, True, backward), expected)
    for name, buffer in rounded.named_buffers():
        assert torch.equal(ours.get_buffer(name), buffer)
    with autocast():  # tokens of a linear layer, which has rounded them
        rough = ours(x.bfloat16())
    assert rough.dtype == torch.float32
    assert torch.equal(rough, rounded(x.bfloat16().float()))


@NEEDS_NUMBA
@pytest.mark.parametrize("attention", ["tssa", "sssa", "softmax"])
def test_compiled_training_mixes_tokens_in_float32(attention: str) -> None:
    x, _ = tokens()
    expected = run(transformer("bf16", "numba", attention=attention), x, False, False)
    ours = transformer("float32", "numba", attention=attention)
    assert_same(run(ours, x, True, False), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_residual_stream_stays_float32(kernel: Kernel, training: bool, masked: bool) -> None:
    """Also where a linear layer has rounded the tokens."""
    x, valid = tokens()
    net = transformer("float32", kernel).train(training)
    for dtype in (torch.bfloat16, torch.float16):
        with autocast(dtype), torch.no_grad():
            rough = net(x.to(dtype), valid if masked else None)
            assert torch.equal(rough, net(x.to(dtype).float(), valid if masked else None))
        assert rough.dtype == torch.float32


def test_batch_statistics_are_summed_in_float32() -> None:
    x, valid = tokens()
    x = x.expand(3, -1, -1, -1)
    norm = TdBN(16, 0.5, masked=True)
    expected = norm(x, valid=valid)
    with autocast():
        assert torch.equal(norm(x, valid=valid), expected)
        rough = norm(x.bfloat16(), valid=valid)
    assert rough.dtype == torch.float32
    assert torch.equal(rough, norm(x.bfloat16().float(), valid=valid))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("masked", [True, False])
def test_transformers_of_another_dtype_train(dtype: torch.dtype, masked: bool) -> None:
    x, valid = tokens()
    net: Any = transformer("float32", "auto").to(dtype)
    before = net.norm.bn.running_var.clone()
    out = net(x.to(dtype), valid if masked else None)
    assert out.dtype == dtype
    out.float().sum().backward()
    assert bool(out.isfinite().all())
    assert net.norm.bn.running_var.dtype == dtype
    assert not torch.equal(net.norm.bn.running_var, before)


def test_without_memory_there_is_no_autocast_to_ask_for() -> None:
    x, valid = (part.to("meta") for part in tokens())
    assert transformer("float32", "auto").to("meta")(x, valid).shape == (6, 5, 16)
    for net in (make("torch", "float32"), make(KERNELS[-1], "exact"), ValueNetwork(5, 3)):
        assert net.to("meta")(torch.ones(4, 5, device="meta")).shape == (4, 3)


@pytest.mark.parametrize("normalization", ["ptbn", "tdln"])
def test_plain_training_of_a_transformer_keeps_its_state(normalization: Any) -> None:
    net = transformer("float32", "torch", normalization)
    x = torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(0))
    with autocast():
        out = net(x)
    assert bool(out.isfinite().all())
    out.float().sum().backward()
    assert all(b.dtype == torch.float32 for b in net.buffers() if b.is_floating_point())
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32
        for p in net.parameters()
        if p.grad is not None
    )
