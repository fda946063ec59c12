"""Mixed precision: matmuls in half precision, parameters and optimizer in float32.

bfloat16 has float32's range and needs nothing else. float16's range ends at 65,504 and its small
gradients vanish, so the loss is scaled up before `backward` and gradients down before `step`.
"""

import contextlib
from typing import Any, Literal

import torch
from torch.amp import GradScaler

Precision = Literal["bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(amp: str | None) -> None:
    """Raise ValueError unless amp is "bf16", "fp16" or None."""
    if amp is not None and amp not in DTYPES:
        raise ValueError(
            f"amp must be None, 'bf16' or 'fp16', got {amp!r}; 'bf16' is the one to take"
        )


def autocast(amp: str | None, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast of a device to that precision; nothing for None."""
    if amp is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[amp])


class FixedScaler(GradScaler):
    """torch's GradScaler with a scale that never moves; steps with infinities are skipped still.

    Args:
        device: type of the parameters' device, "cpu" or "cuda".
        scale: factor on the loss, > 0.
    """

    def __init__(self, device: str, scale: float) -> None:
        super().__init__(device, init_scale=scale)
        self._fixed = scale

    def update(self, new_scale: Any = None) -> None:
        """Get ready for the next step."""
        super().update(self._fixed if new_scale is None else new_scale)


def make_scaler(amp: str | None, device: torch.device, scale: float | None) -> GradScaler:
    """What scales losses under that precision; for all but "fp16" it does nothing.

    Args:
        amp: precision.
        device: of the parameters.
        scale: a fixed factor; None: torch's adaptive one.

    Raises:
        ValueError: if a scale is given that would have no effect, or is not positive.
    """
    if scale is not None and (amp != "fp16" or not scale > 0.0):
        raise ValueError(
            f"loss_scale must be positive and goes with amp='fp16' only, got {scale} with "
            f"amp={amp!r}; leave it out"
        )
    if scale is not None:
        return FixedScaler(device.type, scale)
    return GradScaler(device.type, enabled=amp == "fp16")
