"""Spikes and their surrogate gradients; the only place that compares with a threshold.

Forward, every function here is the strict step: spike = 1 where v > v_threshold, else 0.
Backward, the step's derivative (zero almost everywhere) is replaced by that of a smooth step:

    name        derivative at x = v - v_threshold, width w
    rectangle   1/w  where |x| < w/2, else 0                       (PopSAN and DSFormer: w = 1)
    triangle    max(0, 1 - |x|/w) / w
    sigmoid     k * sig(k x) * (1 - sig(k x)),  k = 4/w
    arctan      1 / (w * (1 + (pi x / w)^2))

All have area 1 and peak 1/w, so `width` means the same for each: the width of the rectangle of
equal height. Each backward is itself differentiable (TRPO differentiates twice).

Source: Neftci, Mostafa, Zenke 2019 (surrogate gradients); Tang et al. 2020 (PopSAN: rectangle).
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

# (v, v_threshold) -> spikes in {0, 1}, of v's shape and dtype. A tensor threshold broadcasts.
SpikeFn = Callable[[Tensor, float | Tensor], Tensor]


def _rectangle(x: Tensor, width: float) -> Tensor:
    return (x.abs() < width / 2).to(x.dtype) / width


def _rectangle_smooth(x: Tensor, width: float) -> Tensor:
    return (x / width + 0.5).clamp(0.0, 1.0)


def _triangle(x: Tensor, width: float) -> Tensor:
    return (1.0 - x.abs() / width).clamp_min(0.0) / width


def _triangle_smooth(x: Tensor, width: float) -> Tensor:
    u = (x / width).clamp(-1.0, 1.0)
    return 0.5 + u - 0.5 * u * u.abs()


def _sigmoid(x: Tensor, width: float) -> Tensor:
    s = torch.sigmoid(4.0 / width * x)
    return 4.0 / width * s * (1.0 - s)


def _sigmoid_smooth(x: Tensor, width: float) -> Tensor:
    return torch.sigmoid(4.0 / width * x)


def _arctan(x: Tensor, width: float) -> Tensor:
    return 1.0 / (width * (1.0 + (math.pi / width * x).square()))


def _arctan_smooth(x: Tensor, width: float) -> Tensor:
    return 0.5 + torch.atan(math.pi / width * x) / math.pi


_SHAPES: dict[str, tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "rectangle": (_rectangle, _rectangle_smooth),
    "sigmoid": (_sigmoid, _sigmoid_smooth),
    "arctan": (_arctan, _arctan_smooth),
    "triangle": (_triangle, _triangle_smooth),
}

SURROGATES: tuple[str, ...] = tuple(_SHAPES)


class Surrogate:
    """A `SpikeFn`: hard step forward, derivative of a smooth step backward.

    Args:
        name: one of `SURROGATES`.
        width: width of the rectangle of equal peak height, > 0, in units of v.

    Raises:
        ValueError: if the name is unknown or the width not positive.
    """

    def __init__(self, name: str, width: float = 1.0) -> None:
        if name not in _SHAPES:
            raise ValueError(f"surrogate must be one of {list(SURROGATES)}, got {name!r}")
        if not width > 0.0:
            raise ValueError(f"surrogate_width must be > 0, got {width!r}")
        self.name = name
        self.width = width

    def __call__(self, v: Tensor, v_threshold: float | Tensor) -> Tensor:
        """Spikes of v, with this surrogate's gradient with respect to v."""
        return _step(v, v_threshold, self.derivative)

    def derivative(self, x: Tensor) -> Tensor:
        """The surrogate derivative at x = v - v_threshold."""
        return _SHAPES[self.name][0](x, self.width)

    def smooth(self, v: Tensor, v_threshold: float | Tensor) -> Tensor:
        """The smooth step that `derivative` belongs to; a `SpikeFn` for gradient checks."""
        return _SHAPES[self.name][1](v - v_threshold, self.width)

    def __repr__(self) -> str:
        """Name and width, as in the constructor."""
        return f"Surrogate({self.name!r}, width={self.width})"


def straight_through(v: Tensor, v_threshold: float | Tensor) -> Tensor:
    """A `SpikeFn` whose gradient passes unchanged: d spike / d v = 1 everywhere.

    Source: Bengio, Leonard, Courville 2013; PopSAN uses it for its encoder.
    """
    return _step(v, v_threshold, torch.ones_like)


def _step(v: Tensor, v_threshold: float | Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
    if tracing():
        # A traced graph is saved as plain operations: it cannot hold a Python function, and it is
        # traced with gradients on. TorchScript and ONNX files only run forward.
        return _fire(v, v_threshold)
    spikes = _Step.apply(v, v_threshold, derivative)  # type: ignore[no-untyped-call]  # torch's
    return cast(Tensor, spikes)


def _fire(v: Tensor, v_threshold: float | Tensor) -> Tensor:
    return fires(v, v_threshold).to(v.dtype)


def fires(v: Tensor, v_threshold: float | Tensor) -> Tensor:
    """Where v is above the threshold, strictly: booleans of v's shape, without gradient."""
    return v > v_threshold


def tracing() -> bool:
    """Whether the call is being traced for TorchScript or ONNX."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]  # torch's


class _Step(torch.autograd.Function):
    """Strict step; backward multiplies by `derivative(v - v_threshold)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        v: Tensor, v_threshold: float | Tensor, derivative: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return _fire(v, v_threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v, v_threshold, derivative = inputs
        # The threshold carries no gradient, so v - v_threshold is all that backward needs.
        ctx.save_for_backward(v)
        ctx.v_threshold = v_threshold
        ctx.derivative = derivative

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (v,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.derivative(v - ctx.v_threshold), None, None
