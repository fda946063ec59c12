"""Checks of tensors at public edges: errors that name what came and what to do."""

import torch
from torch import Tensor


def check_features(name: str, x: Tensor, features: int) -> None:
    """Raise ValueError unless x is [B, features]."""
    if x.dim() != 2 or x.shape[1] != features:
        raise ValueError(
            f"{name} must be [B, {features}] (batch first), got {tuple(x.shape)}; "
            "flatten each observation and check its size"
        )


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError if x [B, features] holds NaN or infinity, naming the features.

    A spiking network would swallow them: a NaN activation is not above the threshold, so it never
    spikes, and a finite action comes out.
    """
    finite = torch.isfinite(x)
    if not finite.all():
        columns = (~finite).any(dim=0).nonzero().flatten().tolist()
        shown = ", ".join(map(str, columns[:8])) + (", ..." if len(columns) > 8 else "")
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in feature {shown} "
            f"({int((~finite).sum())} of {x.numel()} values); check the environment's output"
        )
