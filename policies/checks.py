"""Checks and marks of tensors at public edges."""

from torch import Tensor


def check_features(name: str, x: Tensor, features: int) -> None:
    """Raise ValueError unless x is [B, features]."""
    if x.dim() != 2 or x.shape[1] != features:
        raise ValueError(
            f"{name} must be [B, {features}] (batch first), got {tuple(x.shape)}; "
            "flatten each observation and check its size"
        )


def fault_mark(x: Tensor) -> Tensor:
    """0 for each sample of x [B, N] whose values are all finite, NaN for the others: [B, 1].

    Comparisons swallow NaN: a membrane that is NaN is not above its threshold, so it never spikes,
    and a finite action would come out of broken weights or observations. Adding this mark to what
    goes on lets them through. It needs no branch, so compiled and exported graphs keep it.
    """
    return 0.0 * x.detach().sum(dim=1, keepdim=True)
