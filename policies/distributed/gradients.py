"""Gradients averaged over ranks, for training loops that go around `forward`.

Stable-Baselines3's loops call parts of a policy, so torch's DistributedDataParallel, which acts
where a whole module is called, would do nothing in silence. Here the loop, or a hook of the
optimizer, asks for the average between `backward` and `step`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.distributed.group import sum_all_, sum_number, world_size

# Elements of one message: 25 MB of float32, as torch's DistributedDataParallel.
BUCKET = 25 * 2**18

_NO_WEIGHT = "weight is 0 on all ranks: there is no mean over nothing; skip this step on all ranks"


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
            loss is a mean over; None: all the same. With 0 the gradient does not count, even if
            it is NaN, as a mean over nothing is. Not all ranks' weights may be 0. Where statistics
            are shared, a rank's gradient is one of all ranks' losses: weigh these, by
            `loss_factor`, and leave this out.
        bucket: elements of one message; several messages travel at the same time.

    Raises:
        ValueError: if weight is negative or not finite, or 0 on all ranks; if a gradient is sparse.
        RankLostError: if another rank has ended.
    """
    if weight is not None:
        _check_weight(weight)
    if world_size() == 1:
        return
    parts = [
        _Part(group, _message(group, 1.0 if weight is None else weight))
        for group in _buckets([p for p in parameters if p.requires_grad], bucket)
    ]
    sum_all_([part.message for part in parts])
    for part in parts:
        _take(part)


def loss_factor(weight: float) -> float:
    """What to multiply this rank's loss by, so that the mean over ranks weighs each as it should.

    It is weight / (mean weight of the ranks). A loss that is a mean over `weight` valid steps
    becomes this rank's part of the mean over the valid steps of all ranks.

    Raises:
        ValueError: if weight is negative or not finite, or 0 on all ranks.
        RankLostError: if another rank has ended.
    """
    _check_weight(weight)
    total = sum_number(weight)
    if total == 0.0:
        raise ValueError(_NO_WEIGHT)
    return weight * world_size() / total


def _check_weight(weight: float) -> None:
    if not 0.0 <= weight < math.inf:
        raise ValueError(
            f"weight must be a finite number of at least 0, got {weight}; pass the number of valid "
            "steps"
        )


def _buckets(parameters: list[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Parameters of one dtype and device each, up to `size` elements unless one alone has more."""
    buckets: list[list[nn.Parameter]] = []
    # where the last bucket of a kind stands, and its elements
    last: dict[tuple[torch.dtype, torch.device], tuple[int, int]] = {}
    for parameter in parameters:
        kind = (parameter.dtype, parameter.device)
        place, elements = last.get(kind, (-1, size))
        if place < 0 or elements + parameter.numel() > size:
            place, elements = len(buckets), 0
            buckets.append([])
        buckets[place].append(parameter)
        last[kind] = (place, elements + parameter.numel())
    return buckets


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
    if weight == 0.0:
        flat.zero_()  # 0 * NaN is NaN
    elif weight != 1.0:
        flat.mul_(weight)
    return torch.cat([flat, torch.tensor([*has, weight], dtype=dtype, device=like.device)])


def _take(part: _Part) -> None:
    """Write the message's means into the gradients."""
    sizes = [parameter.numel() for parameter in part.parameters]
    flat, has = part.message.split([sum(sizes), len(sizes) + 1])
    *present, weight = has.tolist()
    if weight == 0.0:
        raise ValueError(_NO_WEIGHT)
    flat = flat / weight
    for parameter, grad, ranks in zip(part.parameters, flat.split(sizes), present, strict=True):
        if ranks == 0.0:
            continue
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(grad.view_as(parameter))
