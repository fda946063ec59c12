"""Memory for results that do not outlive the function that computes them.

A result of some megabytes gets fresh pages from the operating system at each allocation, and
touching them for the first time costs as much as computing it. One buffer a thread, a purpose and a
device is kept instead.
"""

import threading
from math import prod

import torch
from torch import Tensor

# Larger buffers are not kept.
LIMIT_BYTES = 1 << 26

_local = threading.local()


def scratch(
    purpose: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Uninitialized memory, valid until the next call with this purpose on this thread."""
    size = prod(shape) * dtype.itemsize
    if size > LIMIT_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    buffers: dict[tuple[str, torch.device], Tensor] = _local.__dict__.setdefault("buffers", {})
    buffer = buffers.get((purpose, device))
    if buffer is None or buffer.numel() < size:
        # Not inside inference mode: such a tensor could not be used outside it.
        with torch.inference_mode(False):
            buffer = torch.empty(size, dtype=torch.uint8, device=device)
        buffers[purpose, device] = buffer
    return buffer[:size].view(dtype).view(shape)
