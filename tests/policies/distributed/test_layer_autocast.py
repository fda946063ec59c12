"""Autocast of single layers, in loops that cannot be split."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor, PopulationBody
from policies.config import PopulationActorConfig
from policies.distributed import LayerAutocast
from policies.value import ValueNetwork, ValueReadout

LAYERS = (nn.Linear, PopulationBody)


class Broken(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        raise RuntimeError("broken")


class Interrupted(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        raise KeyboardInterrupt


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))


def spiking(kind: type[Any], **settings: Any) -> Any:
    torch.manual_seed(0)
    config = PopulationActorConfig(hidden_sizes=(64, 32), normalize=False, **settings)
    return kind(4, 2, config)


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_only_layers_run_in_half_precision(amp: Any, dtype: torch.dtype) -> None:
    net, x = network(), torch.randn(5, 4)
    expected = net(x)
    inside: list[torch.dtype] = []
    net[0].register_forward_hook(lambda _, __, out: inside.append(out.dtype))
    with LayerAutocast(net, amp, LAYERS):
        ours = net(x)
        assert not torch.is_autocast_enabled("cpu")
        assert (x @ x.t()).dtype == torch.float32
    assert inside == [dtype]
    assert ours.dtype == torch.float32
    assert 0 < float((ours - expected).detach().abs().max()) < 0.05
    assert torch.equal(net(x), expected)
    assert len(net[0]._forward_hooks) == 1
    assert not net[0]._forward_pre_hooks
    assert not net[2]._forward_hooks


def test_none_does_nothing() -> None:
    net, x = network(), torch.randn(5, 4)
    with LayerAutocast(net, None, LAYERS):
        assert not net[0]._forward_hooks
        assert torch.equal(net(x), network()(x))
    with pytest.raises(ValueError, match="amp must be"):
        LayerAutocast(net, "fp8", LAYERS)  # type: ignore[arg-type]


def test_autocast_ends_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(4, 4), Broken(4, 4))
    with LayerAutocast(net, "bf16", LAYERS):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="broken"):
                net(torch.randn(3, 4))
            assert not torch.is_autocast_enabled("cpu")


def test_autocast_ends_after_an_interrupt() -> None:
    """PyTorch calls no hook then."""
    net = nn.Sequential(nn.Linear(4, 4), Interrupted(4, 4))
    with pytest.raises(KeyboardInterrupt), LayerAutocast(net, "bf16", LAYERS):
        net(torch.randn(3, 4))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_run_in_float32(copied: Callable[[nn.Module], nn.Module]) -> None:
    net, x = network(), torch.randn(5, 4)
    expected = net(x)
    with LayerAutocast(net, "bf16", LAYERS):
        half = net(x)
        other = copied(net)
        assert torch.equal(other(x), expected)
        assert torch.equal(net(x), half)
    assert torch.equal(other(x), expected)
    with LayerAutocast(other, "bf16", LAYERS):
        assert torch.equal(other(x), half)
    assert other.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [PopulationActor, ValueNetwork])
def test_spiking_networks_run_whole(kind: type[Any]) -> None:
    """As with matmul="bf16", kernel and all."""
    ours, x = spiking(kind), torch.randn(5, 4)
    expected = spiking(kind, matmul="bf16")
    with LayerAutocast(nn.Sequential(ours), "bf16", LAYERS):
        out = ours(x)
        out.sum().backward()
        with torch.no_grad():  # few observations, not event by event
            assert torch.equal(ours(x), out)
    assert torch.equal(out, expected(x))
    expected(x).sum().backward()
    for mine, theirs in zip(ours.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_readouts_of_values_stay_float32() -> None:
    net = nn.Sequential(nn.Linear(4, 8), ValueReadout(8, 2))
    with LayerAutocast(net, "bf16", LAYERS):
        hidden = net[0](torch.randn(5, 4))
        out = net[1](hidden)
    assert torch.equal(net[1](hidden), out)
