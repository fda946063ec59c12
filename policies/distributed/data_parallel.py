"""One module on many ranks and in mixed precision."""

import inspect
import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from policies.distributed.group import at_stop, broadcast_state, world_size
from policies.distributed.precision import (
    Precision,
    autocast,
    check_precision,
    make_scaler,
    to_float,
)
from policies.distributed.statistics import share_statistics

# Buffers are equal on all ranks without DistributedDataParallel's broadcast in each forward.
_KEEP_BUFFERS = (
    "forward_sync_buffers"  # since PyTorch 2.13
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class DataParallel(nn.Module):
    """Trains a module on all ranks' batches together; alone, it is the module in mixed precision.

        net = DataParallel(SpikingMLP(...), amp="bf16")
        loss = criterion(net(x), y)             # the mean over this rank's batch
        net.scaler.scale(loss).backward()       # .scaler does nothing unless amp="fp16"
        net.scaler.step(optimizer)
        net.scaler.update()

    A training forward goes through torch's DistributedDataParallel, whose backward averages the
    gradients; batch norms and normalizers use all ranks' statistics. In evaluation mode ranks do
    not wait for each other: one may evaluate alone. Train neither in evaluation mode nor through
    the module in this object: either would move the ranks apart.

    Args:
        module: on its device, the same on every rank; rank 0's values are copied to all.
        amp: None for float32, "bf16" or "fp16": what matmuls run in under torch's autocast.
            Parameters, gradients and results are float32.
        loss_scale: a fixed scale of the loss for "fp16"; None: torch's adaptive one.
        **ddp: further arguments of DistributedDataParallel, such as `find_unused_parameters=True`
            for modules of which some parameters get no gradient in a step.

    Attributes:
        module: the module; `net.module.state_dict()` is an ordinary one.
        scaler: torch's GradScaler.

    Raises:
        ValueError: if amp is unknown, or the ranks' modules differ.
    """

    def __init__(
        self,
        module: nn.Module,
        amp: Precision | None = None,
        loss_scale: float | None = None,
        **ddp: Any,
    ) -> None:
        super().__init__()
        check_precision(amp)
        self.module = module
        self.amp = amp
        self.scaler = make_scaler(amp, _device(module), loss_scale)
        self._ddp = ddp
        # Not a submodule: its parameters would stand twice in state_dict.
        self.__dict__["_parallel"] = None
        if world_size() > 1:
            self._join()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; half precision comes out as float32."""
        run = self.module
        if self.training and torch.is_grad_enabled() and world_size() > 1:
            if self.__dict__["_parallel"] is None:
                self._join()  # a copy, or built before the process group
            run = self.__dict__["_parallel"]
        with autocast(self.amp, _device(self.module)):
            return to_float(run(*args, **kwargs))

    def _join(self) -> None:
        """Be the same module on all ranks, and average its gradients from now on."""
        share_statistics(self.module)
        broadcast_state(self.module)
        parallel = self.module
        if any(p.requires_grad for p in self.module.parameters()):
            parallel = DistributedDataParallel(self.module, **{_KEEP_BUFFERS: False, **self._ddp})
        self.__dict__["_parallel"] = parallel
        me = weakref.ref(self)
        at_stop(lambda: _release(me()))

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles get: everything but the ties to other processes."""
        return {**self.__dict__, "_parallel": None}


def _device(module: nn.Module) -> torch.device:
    """Where the module is; it may move."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _release(net: "DataParallel | None") -> None:
    """Let go of the group; the module stays."""
    if net is not None:
        net.__dict__["_parallel"] = None
