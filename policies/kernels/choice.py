"""Which kernel computes, and in which arithmetic the matmuls of spikes run.

    kernel      what it is
    torch       the plain operations of `policies.functional`: slow, differentiable twice
    fused       one hand-written backward for all spike steps, in PyTorch's operations, any device
    numba       the same in compiled loops, CPU; needs the extra [fast]
    triton      the same in one GPU kernel, CUDA; Triton comes with PyTorch's CUDA builds
    auto        numba on a CPU, triton on a GPU, fused where the one wanted is not installed

Spikes and gradients do not depend on the choice, but for the training of a transformer: there
"numba" sums batch statistics in another order (see policies.fused_layers).
"""

import importlib
import logging
import warnings
from functools import cache
from typing import Literal

import torch

Kernel = Literal["auto", "torch", "fused", "numba", "triton"]
Matmul = Literal["exact", "float32", "bf16"]
MatmulBackward = Literal["auto", "float32", "bf16"]

_log = logging.getLogger(__name__)


def pick(kernel: Kernel, device: torch.device) -> Kernel:
    """The kernel to run on `device`: never "auto", and one that is installed and runs there."""
    return _pick(kernel, device.type)


@cache
def _pick(kernel: Kernel, device: str) -> Kernel:
    found = _usable(kernel, device)
    _log.info("spiking kernel on %s: %s (asked for: %s)", device, found, kernel)
    return found


def _usable(kernel: Kernel, device: str) -> Kernel:
    if kernel in ("torch", "fused"):
        return kernel
    native: dict[str, Kernel] = {"cpu": "numba", "cuda": "triton"}
    wanted = native.get(device, "fused")
    if kernel not in ("auto", wanted):
        # A model that was trained elsewhere must run here; spikes are the same.
        _log.info("kernel %s does not run on %s", kernel, device)
        return _usable("auto", device)
    if wanted == "fused" or _imports(wanted):
        return wanted
    if kernel != "auto":
        warnings.warn(
            f"kernel={kernel!r} is not installed, or does not import: 'fused' computes the same "
            "spikes, slower; install spiking-policies[fast], or set kernel='auto'",
            stacklevel=2,
        )
    return "fused"


@cache
def _imports(package: str) -> bool:
    """Whether an optional package imports; a broken one is as good as a missing one."""
    try:
        importlib.import_module(package)
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError):
            _log.warning("%s is installed but does not import: %s", package, error)
        return False
    return True


def has_numba() -> bool:
    """Whether compiled loops can run on this computer's CPU."""
    return _imports("numba")
