"""The fused LIF against functional's: the same spikes, state and gradients."""

import itertools

import pytest
import torch
from torch import Tensor

from policies import LIF, LIFConfig, LIFState
from policies.config import ResetMode
from policies.kernels.lif import fused_lif_sequence
from policies.surrogate import SURROGATES, Surrogate

RESETS: tuple[ResetMode, ...] = ("hard", "soft")
CONFIGS = [
    LIFConfig(v_decay=decay, reset_mode=reset, detach_reset=detach, surrogate=surrogate)
    for decay, reset, detach, surrogate in itertools.product(
        (0.0, 0.25, 1.0), RESETS, (True, False), SURROGATES
    )
]


def currents(steps: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, 7, 3, 11, generator=generator) + 0.3


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_equal_to_functional(config: LIFConfig, steps: int) -> None:
    plain, fused = LIF(config), LIF(config, fused=True)
    probe = torch.randn(steps, 7, 3, 11, generator=torch.Generator().manual_seed(1))
    results = []
    for neuron in (plain, fused):
        x = currents(steps).requires_grad_()
        spikes, state = neuron(x)
        (spikes * probe).sum().backward()
        results.append((spikes, state.v, x.grad))
    (spikes, v, grad), (fused_spikes, fused_v, fused_grad) = results
    assert 0.2 < float(spikes.detach().mean()) < 0.8
    assert torch.equal(spikes, fused_spikes)
    assert torch.equal(v, fused_v)
    assert grad is not None
    assert fused_grad is not None
    assert float(grad.abs().max()) > 0.1
    torch.testing.assert_close(fused_grad, grad, atol=1e-6, rtol=1e-6)


def test_float64_gradient_is_exact() -> None:
    config = LIFConfig(detach_reset=False, surrogate="sigmoid")
    x = currents().double().requires_grad_()
    LIF(config)(x)[0].square().sum().backward()
    expected = x.grad
    x.grad = None
    LIF(config, fused=True)(x)[0].square().sum().backward()
    torch.testing.assert_close(x.grad, expected, atol=1e-13, rtol=1e-13)


def test_broken_membranes_stay_broken() -> None:
    x = currents()
    x[0, 0, 0, 0], x[2, 1, 0, 0] = float("nan"), float("inf")
    _, state = fused_lif_sequence(x, LIFConfig(), Surrogate("rectangle"))
    broken = ~torch.isfinite(state.v)
    assert broken[0, 0, 0]
    assert broken[1, 0, 0]
    assert int(broken.sum()) == 2


def test_half_precision_keeps_the_membrane_in_float32() -> None:
    x = currents().bfloat16()
    spikes, state = LIF(LIFConfig(), fused=True)(x)
    expected, _ = LIF(LIFConfig())(x)
    assert spikes.dtype == torch.bfloat16
    assert state.v.dtype == torch.float32
    assert torch.equal(spikes, expected)


def test_a_given_state_runs_the_plain_version() -> None:
    x = currents().requires_grad_()
    v = torch.full_like(x[0], 0.2).detach().requires_grad_()
    _, state = LIF(LIFConfig(), fused=True)(x, LIFState(v))
    state.v.sum().backward()
    assert v.grad is not None
    assert float(v.grad.abs().sum()) > 0.0


def test_cannot_be_differentiated_twice() -> None:
    x = currents().requires_grad_()
    spikes, _ = LIF(LIFConfig(), fused=True)(x)
    # Of a sum of spikes the gradient needs no gradient: nothing but the check sees the mistake.
    for loss in (spikes.square().sum(), spikes.sum()):
        with pytest.raises(RuntimeError, match="kernel='torch'"):
            torch.autograd.grad(loss, x, create_graph=True, retain_graph=True)
