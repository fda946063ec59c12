"""Averages of gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from policies.distributed import average_gradients, loss_factor, rank, world_size
from tests.policies.distributed.common import check, error_of, gradients, normal, part


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def _step(sizes: tuple[int, int], weighted: bool, **how: Any) -> dict[str, Tensor]:
    net = _network()
    x, y = part(normal(8, 6), sizes), part(normal(8, 3, seed=1), sizes)
    (net(x) - y).square().mean().backward()
    average_gradients(net.parameters(), weight=float(len(x)) if weighted else None, **how)
    return gradients(net)


@check
def means() -> dict[str, Any]:
    """Equal and unequal parts of a batch, in one message and in many."""
    return {
        "even": _step((4, 4), weighted=False),
        "uneven": _step((3, 5), weighted=True),
        "small messages": _step((3, 5), weighted=True, bucket=20),
        "smallest messages": _step((3, 5), weighted=True, bucket=0),
    }


@check
def unweighted() -> dict[str, Tensor]:
    """Unequal parts without their weights: wrong on purpose."""
    return _step((3, 5), weighted=False)


@check
def alone() -> dict[str, Tensor]:
    """Without averaging: wrong on purpose."""
    net = _network()
    x, y = part(normal(8, 6), (4, 4)), part(normal(8, 3, seed=1), (4, 4))
    (net(x) - y).square().mean().backward()
    return gradients(net)


@check
def missing() -> list[Tensor | None]:
    """Gradients that are None on all ranks, on rank 1, on rank 0, on none; and one frozen."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(5)]
    parameters[4].requires_grad_(False)
    for parameter, has in zip(parameters, (None, 0, 1, "both", None), strict=True):
        if has == "both" or has == rank():
            parameter.grad = torch.full((2,), rank() + 1.0)
    # A list or a generator.
    average_gradients(p for p in parameters)
    return [p.grad for p in parameters]


@check
def dtypes() -> dict[str, Tensor]:
    """Several dtypes in turn, and shapes: scalars, nothing, columns first."""
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    out = {}
    for bucket in (3, 1000):
        parameters = [
            nn.Parameter(torch.zeros(shape, dtype=dtype))
            for shape in ((), (0,), (2, 3))
            for dtype in kinds
        ]
        for i, parameter in enumerate(parameters):
            grad = normal(*parameter.shape[::-1], seed=10 * i + rank()).to(parameter.dtype)
            parameter.grad = grad.t() if grad.dim() == 2 else grad
        average_gradients(parameters, bucket=bucket)
        for i, parameter in enumerate(parameters):
            assert parameter.grad is not None
            out[f"{bucket}, {i}"] = parameter.grad
    return out


@check
def nothing_to_weigh() -> dict[str, Any]:
    """Rank 1 has no valid step: the mean over nothing is NaN, and does not count."""
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), float("nan") if rank() else 2.0)
    average_gradients([parameter], weight=0.0 if rank() else 7.0)
    return {"gradient": parameter.grad}


@check
def scaled_losses() -> dict[str, Tensor]:
    """As `means`, by factors on the losses."""
    net = _network()
    x, y = part(normal(8, 6), (3, 5)), part(normal(8, 3, seed=1), (3, 5))
    factor = loss_factor(len(x))
    ((net(x) - y).square().mean() * factor).backward()
    average_gradients(net.parameters())
    return gradients(net)


@check
def refusals() -> list[str]:
    """Errors on every rank, after which the ranks still talk."""
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    dense = nn.Parameter(torch.zeros(2))
    dense.grad = torch.ones(2)
    found = [
        error_of(lambda: average_gradients([dense], weight=-1.0)),
        error_of(lambda: average_gradients([dense], weight=float("nan"))),
        error_of(lambda: average_gradients([dense], weight=float("inf"))),
        error_of(lambda: average_gradients([dense], weight=0.0)),
        error_of(lambda: average_gradients(table.parameters())),
        error_of(lambda: loss_factor(-1.0)),
        error_of(lambda: loss_factor(0.0)),
    ]
    average_gradients([dense])
    average_gradients([])
    assert dense.grad.tolist() == [1.0, 1.0]
    assert world_size() == 2
    return found
