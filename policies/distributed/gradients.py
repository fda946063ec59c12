"""Gradients averaged over ranks, for training loops that go around `forward`.

Stable-Baselines3's loops call parts of a policy, so torch's DistributedDataParallel, which acts
where a whole module is called, would do nothing in silence. Here the loop, or a hook of the
optimizer, asks for the average between `backward` and `step`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.distributed.group import sum_all_, world_size

# Elements of one message: 25 MB of float32, as torch's DistributedDataParallel.
BUCKET = 25 * 2**18


class _Part(NamedTuple):
    parameters: list[nn.Parameter]
    message: Tensor


@torch.no_grad()
def average_gradients(
    parameters: Iterable[nn.Parameter], weight: float | None = None, *, bucket: int = BUCKET
) -> None:
    """Replace each gradient by its mean over the ranks; the same bits on every rank.

    Every rank must call it with the same parameters in the same order. A gradient that is None on
    all ranks stays None; where only some ranks have one, None counts as zero.

    Args:
        parameters: those that the optimizer is about to move.
        weight: of this rank's gradient in the mean, for example the number of valid steps that its
            loss is a mean over; None: all the same. Weights may not all be 0.
        bucket: elements of one message; several messages travel at the same time.

    Raises:
        ValueError: if weight is negative or a gradient is sparse.
        RankLostError: if another rank has ended.
    """
    if weight is not None and not weight >= 0.0:
        raise ValueError(f"weight must be at least 0, got {weight}; pass the number of valid steps")
    if world_size() == 1:
        return
    parts = [
        _Part(group, _message(group, 1.0 if weight is None else weight))
        for group in _buckets([p for p in parameters if p.requires_grad], bucket)
    ]
    sum_all_([part.message for part in parts])
    for part in parts:
        _take(part)


def _buckets(parameters: list[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Parameters of one dtype and device each, up to `size` elements unless one alone has more."""
    groups: dict[tuple[torch.dtype, torch.device], list[list[nn.Parameter]]] = {}
    for parameter in parameters:
        buckets = groups.setdefault((parameter.dtype, parameter.device), [[]])
        if buckets[-1] and sum(p.numel() for p in buckets[-1]) + parameter.numel() > size:
            buckets.append([])
        buckets[-1].append(parameter)
    return [bucket for buckets in groups.values() for bucket in buckets]


def _message(parameters: list[nn.Parameter], weight: float) -> Tensor:
    """Weighted gradients one after the other, then who has one, then the weight."""
    like = parameters[0]
    # Half precision would round sums, and counts above 256.
    dtype = torch.promote_types(like.dtype, torch.float32)
    pieces, has = [], []
    for parameter in parameters:
        grad = parameter.grad
        has.append(0.0 if grad is None else 1.0)
        if grad is None:
            grad = torch.zeros_like(parameter)
        if grad.is_sparse:
            raise ValueError(
                "gradients must be dense, got a sparse one; set sparse=False in nn.Embedding"
            )
        pieces.append(grad.reshape(-1).to(dtype))
    flat = torch.cat(pieces)
    if weight != 1.0:
        flat.mul_(weight)
    return torch.cat([flat, torch.tensor([*has, weight], dtype=dtype, device=like.device)])


def _take(part: _Part) -> None:
    """Write the message's means into the gradients."""
    sizes = [parameter.numel() for parameter in part.parameters]
    flat, has, weight = part.message.split([sum(sizes), len(sizes), 1])
    flat = flat / weight
    present = has.tolist()
    for parameter, grad, ranks in zip(part.parameters, flat.split(sizes), present, strict=True):
        if ranks == 0.0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(grad.view_as(parameter))
