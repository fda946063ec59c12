"""What ranks say to each other."""

from typing import Any

import torch
from torch import nn

from policies.distributed import (
    broadcast_object,
    broadcast_state,
    exchange_seconds,
    gather_objects,
    is_main,
    local_rank,
    rank,
    sum_over_ranks,
    world_size,
)
from policies.distributed.group import barrier, gather, sum_number
from tests.policies.distributed.common import check, error_of, normal, part


@check
def identity() -> dict[str, Any]:
    """Who is who."""
    before = exchange_seconds()
    barrier()
    return {
        "rank": (rank(), world_size(), local_rank(), is_main()),
        "objects": gather_objects({"rank": rank()}),
        "first": broadcast_object(f"from {rank()}"),
        "number": sum_number(rank() + 1.5),
        "gathered": [gather(torch.full(shape, rank() + 1.0)) for shape in ((), (2,), (0,))],
        "waited": exchange_seconds() > before,
    }


@check
def sums() -> dict[str, Any]:
    """A sum that is used twice, its gradients, and those of its gradients."""
    x = part(normal(4, 3), (2, 2)).clone().requires_grad_()
    total = sum_over_ranks(x.square().sum(dim=0))
    weights = part(normal(2, 3, seed=1), (1, 1)).sum(dim=0)
    loss = (total.sin() * weights).sum() + sum_over_ranks(total.sum() * weights.sum())
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    with torch.no_grad():
        plain = sum_over_ranks(x.t())
    assert x.grad is None
    return {
        "total": total.detach(),
        "first": first.detach(),
        "second": second,
        "plain": plain,
        "kept": x.detach(),
        "needs": plain.requires_grad,
    }


class _Kinds(nn.Module):
    """Tensors of every kind that a module may have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4).t())
        self.short = nn.Parameter(torch.randn(2, dtype=torch.bfloat16))
        self.frozen = nn.Parameter(torch.randn(()), requires_grad=False)
        self.register_buffer("count", torch.tensor(rank()))
        self.register_buffer("flags", torch.tensor([rank() == 0, True]))
        self.register_buffer("hidden", torch.randn(2, dtype=torch.float64), persistent=False)
        self.register_buffer("nothing", None)


@check
def broadcast() -> dict[str, Any]:
    """Rank 0's values everywhere, in place; modules that differ are named."""
    torch.manual_seed(rank())
    module = _Kinds()
    before = {name: x.clone() for name, x in _tensors(module).items()}
    places = [x.data_ptr() for x in _tensors(module).values()]
    broadcast_state(module)
    wide = nn.Linear(3, 2 + rank())
    double = nn.Linear(3, 2).to(torch.float64 if rank() else torch.float32)
    more = nn.Sequential(nn.Linear(3, 2), *[nn.Linear(2, 2)] * rank())
    turned = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("ab" if rank() else "ba")})
    return {
        "before": before,
        "after": {name: x.detach().clone() for name, x in _tensors(module).items()},
        "in place": places == [x.data_ptr() for x in _tensors(module).values()],
        "errors": [
            error_of(lambda m=m: broadcast_state(m))  # type: ignore[misc]
            for m in (wide, double, more, turned)
        ],
    }


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
