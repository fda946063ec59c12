import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from policies.config import CurrentLIFConfig, LIFConfig, NeuronConfig
from policies.neurons import make_neuron
from policies.surrogate import SURROGATES, SpikeFn, Surrogate, straight_through

X = torch.linspace(-6.0, 6.0, 24_001, dtype=torch.float64)


@pytest.mark.parametrize("name", SURROGATES)
def test_spikes_are_a_strict_step(name: str) -> None:
    v = torch.tensor([0.4999, 0.5, 0.5001, -3.0, 9.0])
    assert Surrogate(name)(v, 0.5).tolist() == [0.0, 0.0, 1.0, 0.0, 1.0]


def test_equality_in_float32_with_a_threshold_that_float32_cannot_hold() -> None:
    v = torch.tensor([0.999], dtype=torch.float32)
    assert straight_through(v, 0.999).item() == 0.0


@pytest.mark.parametrize("width", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("name", SURROGATES)
def test_backward_is_the_derivative_of_the_smooth_step(name: str, width: float) -> None:
    surrogate = Surrogate(name, width)
    v = (X + 0.5).requires_grad_()
    (grad,) = torch.autograd.grad(surrogate(v, 0.5).sum(), v)
    h = 1e-6
    slope = (surrogate.smooth(v + h, 0.5) - surrogate.smooth(v - h, 0.5)) / (2 * h)
    corner = (X.abs() - width / 2).abs() < 2 * h  # the rectangle has no derivative there
    torch.testing.assert_close(grad[~corner], slope.detach()[~corner], atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("name", SURROGATES)
def test_width_means_the_same_for_each(name: str, width: float) -> None:
    surrogate = Surrogate(name, width)
    assert surrogate.derivative(torch.zeros(1)).item() == pytest.approx(1 / width)
    far = torch.tensor([-1e6, 1e6], dtype=torch.float64)
    low, high = surrogate.smooth(far, 0.0).tolist()
    assert (low, high) == (pytest.approx(0.0, abs=1e-6), pytest.approx(1.0, abs=1e-6))


def test_values_by_hand() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0])
    expected = {
        "rectangle": [1.0, 1.0, 0.0, 0.0],  # strictly inside the half width
        "triangle": [1.0, 0.75, 0.5, 0.0],
        "sigmoid": [4 * s * (1 - s) for s in (1 / (1 + math.exp(-4 * v)) for v in x.tolist())],
        "arctan": [1 / (1 + (math.pi * v) ** 2) for v in x.tolist()],
    }
    for name in SURROGATES:
        assert Surrogate(name).derivative(x).tolist() == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "arctan"])
def test_backward_can_be_differentiated_again(name: str) -> None:
    surrogate = Surrogate(name, 0.8)
    v = torch.linspace(-1, 2, 31, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(surrogate(v, 0.5).sum(), v, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), v)
    h = 1e-6
    with torch.no_grad():
        slope = surrogate.derivative(v - 0.5 + h) - surrogate.derivative(v - 0.5 - h)
    torch.testing.assert_close(second, slope / (2 * h), atol=1e-6, rtol=1e-6)
    assert second.abs().max() > 0.1


def test_straight_through_passes_the_gradient_unchanged() -> None:
    v = torch.linspace(-5, 5, 11, requires_grad=True)
    (grad,) = torch.autograd.grad((straight_through(v, 0.999) * torch.arange(11.0)).sum(), v)
    assert grad.tolist() == list(range(11))


def test_unknown_names_and_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rectangle.*sigmoid.*arctan.*triangle.*'step'"):
        Surrogate("step")
    with pytest.raises(ValueError, match="surrogate_width must be > 0, got 0"):
        Surrogate("sigmoid", 0.0)


def _trace(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Any:
    with warnings.catch_warnings():
        # torch announces the end of torch.jit, and warns at checks of shapes.
        warnings.simplefilter("ignore")
        return torch.jit.trace(function, x, check_trace=False)


@pytest.mark.parametrize("neuron", [LIFConfig(), CurrentLIFConfig()])
def test_a_traced_neuron_spikes_as_it_did(neuron: NeuronConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = make_neuron(neuron)
    x = torch.randn(5, 7, 11, generator=generator).requires_grad_()

    def spikes_of(x: torch.Tensor) -> torch.Tensor:
        spikes: torch.Tensor = layer(x)[0]
        return spikes

    (before,) = torch.autograd.grad(spikes_of(x).sum(), x)
    traced = _trace(spikes_of, x)
    assert "Python" not in str(traced.graph)  # a call into Python could not be saved
    other = torch.randn(5, 7, 11, generator=generator)
    assert torch.equal(traced(other), spikes_of(other))
    assert 0.0 < spikes_of(other).mean() < 1.0
    (after,) = torch.autograd.grad(spikes_of(x).sum(), x)
    assert torch.equal(before, after)
    assert before.abs().sum() > 0.0


@pytest.mark.parametrize(
    "spike_fn", [*map(Surrogate, SURROGATES), straight_through], ids=[*SURROGATES, "straight"]
)
def test_traced_spikes_are_strict_too(spike_fn: SpikeFn) -> None:
    def spikes_of(v: torch.Tensor) -> torch.Tensor:
        return spike_fn(v, 0.5)

    traced = _trace(spikes_of, torch.zeros(3))
    assert traced(torch.tensor([0.4999, 0.5, 0.5001])).tolist() == [0.0, 0.0, 1.0]
