"""What the checks share. A check is a function that both ranks run, and one process alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policies.distributed import rank, world_size

Check = Callable[[], Any]
# By name; every rank runs all, in this order.
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Have both ranks run a function."""
    CHECKS[function.__name__] = function
    return function


def part(x: Tensor, sizes: Sequence[int], axis: int = 0) -> Tensor:
    """This rank's part of a batch; alone, all of it."""
    return x if world_size() == 1 else x.split(list(sizes), dim=axis)[rank()]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every rank."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients that there are."""
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers."""
    return {name: x.clone() for name, x in module.named_buffers()}


def error_of(action: Check) -> str:
    """The class and message of what an action raises, "" if nothing."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def distance(ours: Any, reference: Any) -> float:
    """Largest difference relative to the largest entry, over tensors of the same structure."""
    if isinstance(reference, dict):
        assert ours.keys() == reference.keys()
        return max((distance(ours[key], reference[key]) for key in reference), default=0.0)
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype
    if torch.equal(ours, reference):
        return 0.0
    difference = (ours.double() - reference.double()).abs().max()
    return float(difference / reference.double().abs().max())


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)
