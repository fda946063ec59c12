"""When a kernel must not stand in for the modules that it computes, and what it must refuse."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as global_hooks

from policies.surrogate import tracing


def looked_at(modules: Iterable[nn.Module]) -> bool:
    """Whether hooks wait on any of the modules: a monitor wants to see each layer."""
    if (
        global_hooks._global_forward_hooks
        or global_hooks._global_forward_pre_hooks
        or global_hooks._global_backward_hooks
        or global_hooks._global_backward_pre_hooks
    ):
        return True
    for module in modules:
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        ):
            return True
    return False


def plain_only() -> bool:
    """Whether only PyTorch's own operations can be run: for a tracer, a compiler, or functorch."""
    return (
        tracing()
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def transformed(device: torch.device) -> bool:
    """Whether something rewrites the operations: those above, or autocast to float16.

    Kernels know autocast to bfloat16: see `autocasts`.
    """
    return plain_only() or (autocast_on(device) and not autocasts(device))


def autocasts(device: torch.device) -> bool:
    """Whether autocast to bfloat16 is on: matmuls of spikes run as `matmul="bf16"` then."""
    return autocast_on(device) and torch.get_autocast_dtype(device.type) == torch.bfloat16


def autocast_on(device: torch.device) -> bool:
    """Whether any autocast is on; there is none for "meta", which PyTorch raises on."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Operations as they are written: backward too may run where autocast is on."""
    if autocast_on(device):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def refuse_second_derivative() -> None:
    """Raise RuntimeError in a backward that is itself recorded.

    torch's once_differentiable would leave terms out in silence where autograd.grad is asked for
    parameters only.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True: this spiking network cannot be differentiated twice; build it "
            "with kernel='torch'"
        )
