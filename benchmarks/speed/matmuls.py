"""The matmuls of linear layers in a training step, alone: nothing that needs them is faster."""

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from benchmarks.speed.harness import Call

# (outputs, inputs) of a linear layer.
Shape = tuple[int, int]
# int8 matmuls a layer's exact forward needs: weights have three int8 parts.
PARTS = 3
EXACT = "exact, backward bf16"


@cache
def has_int8() -> bool:
    """Whether torch multiplies int8 matrices here; the function is private."""
    try:
        ones = torch.ones(32, 32, dtype=torch.int8)
        return bool((torch._int_mm(ones, ones) == 32).all())
    except (AttributeError, RuntimeError):
        return False


def operands(rows: int, shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes [rows, in], weights [out, in] and gradients [rows, out] of a layer."""
    n_out, n_in = shape
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(rows, n_in, generator=generator) < 0.2).to(dtype)
    weight = torch.randn(n_out, n_in, generator=generator)
    grad = torch.randn(rows, n_out, generator=generator)
    return spikes, (8 * weight).to(dtype), (8 * grad).to(dtype)


def float_matmuls(
    rows: int, layers: Iterable[Shape], dtype: torch.dtype, *, forward: bool = True
) -> Call:
    """Backward matmuls of every layer, and the forward ones: results, weights' and inputs'."""
    sets = [operands(rows, shape, dtype) for shape in layers]

    def call() -> None:
        for spikes, weight, grad in sets:
            if forward:
                torch.mm(spikes, weight.t())
            torch.mm(grad.t(), spikes)
            torch.mm(grad, weight)

    return call


def int8_matmuls(rows: int, layers: Iterable[Shape]) -> Call:
    """Forward matmuls of every layer in int8, once for each part of the weights."""
    sets = []
    for shape in layers:
        spikes, weight, _ = operands(rows, shape, torch.int8)
        # The library may join the parts into one matmul; so does the floor.
        sets.append((spikes, weight.repeat(PARTS, 1).t()))

    def call() -> None:
        for spikes, weight in sets:
            torch._int_mm(spikes, weight)

    return call


def floors(rows: int, layers: Iterable[Shape]) -> dict[str, Call]:
    """The matmuls of one training step by arithmetic; exact's backward is bf16's."""
    layers = tuple(layers)
    calls = {
        "float32": float_matmuls(rows, layers, torch.float32),
        "bf16": float_matmuls(rows, layers, torch.bfloat16),
    }
    if has_int8():
        integer = int8_matmuls(rows, layers)
        backward = float_matmuls(rows, layers, torch.bfloat16, forward=False)

        def exact() -> None:
            integer()
            backward()

        calls[EXACT] = exact
    return calls
