"""Mixed precision: matmuls in half precision, parameters and optimizer in float32.

bfloat16 has float32's range and needs nothing else. float16's range ends at 65,504 and its small
gradients vanish, so the loss is scaled up before `backward` and gradients down before `step`.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
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
        self._fixed = float(scale)  # torch takes an int for a tensor
        super().__init__(device, init_scale=self._fixed)

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
        ValueError: if a scale is given that would have no effect, or is not a positive number.
    """
    if scale is not None and (amp != "fp16" or not 0.0 < scale < math.inf):
        raise ValueError(
            f"loss_scale must be positive and finite and goes with amp='fp16' only, got {scale} "
            f"with amp={amp!r}; leave it out"
        )
    if scale is not None:
        return FixedScaler(device.type, scale)
    return GradScaler(device.type, enabled=amp == "fp16")


class LayerAutocast:
    """Autocast of single layers of a network, whose results come out as float32.

    For training loops in which forward, loss and backward cannot be told apart: matmuls run in half
    precision; losses, distributions, backward's bookkeeping and what goes to NumPy stay float32.
    Acts between `__enter__` and `__exit__` only.

    Args:
        module: the network.
        amp: precision; None: does nothing.
        layers: classes of the layers to act on; what is inside of one is part of it. Modules with
            a true attribute `full_precision` are left alone, with all that is inside.
    """

    def __init__(
        self, module: nn.Module, amp: Precision | None, layers: tuple[type[nn.Module], ...]
    ) -> None:
        check_precision(amp)
        self._amp = amp
        self._layers = list(_outermost(module, layers)) if amp is not None else []
        self._handles: list[Any] = []
        self._open: list[contextlib.AbstractContextManager[Any]] = []

    def __enter__(self) -> Self:
        """Begin to act."""
        for layer in self._layers:
            self._handles.append(layer.register_forward_pre_hook(self._before))
            # Also after a layer that raised: autocast must end.
            self._handles.append(layer.register_forward_hook(self._after, always_call=True))
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the network as it was."""
        while self._handles:
            self._handles.pop().remove()
        # PyTorch skips hooks after a KeyboardInterrupt or SystemExit in a layer.
        while self._open:
            self._open.pop().__exit__(None, None, None)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles of the network get with its hooks: they do not act."""
        return {**self.__dict__, "_handles": [], "_open": []}

    def _before(self, layer: nn.Module, args: Any) -> None:
        if not self._handles:
            return
        device = next((p.device for p in layer.parameters()), torch.device("cpu"))
        context = autocast(self._amp, device)
        context.__enter__()
        self._open.append(context)

    def _after(self, layer: nn.Module, args: Any, result: Any) -> Any:
        if self._open:
            self._open.pop().__exit__(None, None, None)
        return to_float(result) if self._handles else result


def _outermost(module: nn.Module, layers: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    """Layers of these classes that are inside of none of them."""
    if getattr(module, "full_precision", False):
        return
    if isinstance(module, layers):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, layers)


def to_float(value: Any) -> Any:
    """Half-precision tensors as float32, also within tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_float, value))
    if isinstance(value, list | tuple):
        return type(value)(map(to_float, value))
    if isinstance(value, dict):
        return {key: to_float(part) for key, part in value.items()}
    return value
