"""The processes of a run and what they say to each other; the only file with torch.distributed.

A run has `world_size()` processes, the ranks 0, 1, ...; rank 0 speaks for all. Without a process
group there is one rank, and every function here returns what it was given.

PyTorch's engine carries it: gloo between CPUs, NCCL between CUDA devices; `torchrun` starts the
processes and tells them of each other in environment variables.
"""

import contextlib
import gc
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

# Without LOCAL_RANK all processes of a machine would take its first GPU.
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long ranks wait for one that is still alive: rank 0 may evaluate for long meanwhile.
TIMEOUT = timedelta(minutes=30)

# Run before the group ends: PyTorch aborts the process, now and then, where a
# DistributedDataParallel outlives the group that it talks through.
_at_stop: list[Callable[[], object]] = []

# What errors of the engine say that did not come through `_exchange`.
_TRANSPORT = re.compile(r"gloo|nccl|connection (closed|reset)", re.IGNORECASE)

# This process's rank in a group that it has left.
_was_rank = 0

# Seconds that this process has spent in exchanges, waiting for slower ranks included.
_seconds = 0.0


class RankLostError(RuntimeError):
    """An exchange between ranks failed: one has ended, or the network between them has."""


def launched() -> bool:
    """Whether torchrun, or whoever sets its variables, has started this process."""
    return all(name in os.environ for name in _VARIABLES)


def active() -> bool:
    """Whether this process is in a group."""
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def process_group(backend: str | None = None, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Join the processes that torchrun started; leave them at the end.

    Nothing happens in a process that was not started so, or that is in a group already.

    Args:
        backend: "gloo", "nccl" or torch's "cpu:gloo,cuda:nccl"; None: what the devices here take.
        timeout: how long to wait for a rank that is alive but silent.

    Raises:
        ValueError: if the backend is not one of this PyTorch, or this machine has fewer CUDA
            devices than processes that want one each.
        RankLostError: if another rank has ended, also in DistributedDataParallel's backward.
    """
    if active() or not launched():
        yield
        return
    start(backend, timeout)
    try:
        yield
    except RuntimeError as error:
        if type(error) is not RankLostError and _TRANSPORT.search(str(error)):
            raise _lost(error) from error
        raise
    finally:
        stop()


def start(backend: str | None = None, timeout: timedelta = TIMEOUT) -> None:
    """Join the processes that torchrun started: see `process_group`."""
    devices = torch.cuda.device_count()
    if backend is None:
        backend = "cpu:gloo,cuda:nccl" if devices else "gloo"
    for name in backend.split(","):
        _check_backend(name.rpartition(":")[2])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "nccl" in backend and here > devices:
        raise ValueError(
            f"{here} processes were started on a machine with {devices} CUDA devices, of which "
            "each process takes one; start at most as many, or pass backend='gloo'"
        )
    if devices:
        torch.cuda.set_device(local_rank() % devices)
    dist.init_process_group(backend, timeout=timeout)


def _check_backend(name: str) -> None:
    there = {
        "gloo": dist.is_gloo_available,
        "nccl": dist.is_nccl_available,
        "mpi": dist.is_mpi_available,
    }
    if name not in there or not there[name]():
        raise ValueError(
            f"backend must be one of {[key for key, has in there.items() if has()]} of this "
            f"PyTorch, got {name!r}; leave it out to get the one for the devices here"
        )


def at_stop(action: Callable[[], object]) -> None:
    """Run an action before this process leaves its group, to let go of what talks through it."""
    _at_stop.append(action)


def stop() -> None:
    """Leave the group, if in one."""
    global _was_rank
    if active():
        _was_rank = rank()
        while _at_stop:
            _at_stop.pop()()
        gc.collect()
        dist.destroy_process_group()


def rank() -> int:
    """This process's number among all, from 0."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if active() else 1


def local_rank() -> int:
    """This process's number among those of its machine: its CUDA device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this is rank 0, which logs and saves; or was, in a group that has ended."""
    return (rank() if active() else _was_rank) == 0


def exchange_seconds() -> float:
    """Seconds that this process has spent in exchanges so far, waiting included.

    Those of DistributedDataParallel, which run beside backward, are not in it.
    """
    return _seconds


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Around whatever waits for other ranks."""
    global _seconds
    begin = time.perf_counter()
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error
    finally:
        _seconds += time.perf_counter() - begin


def _lost(error: RuntimeError) -> RankLostError:
    said = str(error).partition("\n")[0]
    return RankLostError(
        f"rank {rank()} of {world_size()} could not exchange data with the others: one has "
        "ended, or does something else than the rest. Its own message tells why; training "
        f"goes on from its last checkpoint. PyTorch says: {said}"
    )


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        sum_number(0.0)


def sum_number(value: float) -> float:
    """Sum a number over the ranks; the same bits on every rank."""
    return float(sum_(torch.tensor(value, dtype=torch.float64, device=_device())))


def _device() -> str:
    """Where small messages start: NCCL alone takes nothing from a CPU."""
    alone = world_size() > 1 and dist.get_backend() == "nccl"
    return "cuda" if alone else "cpu"


def sum_(x: Tensor) -> Tensor:
    """Sum x over the ranks, in place; the same bits on every rank."""
    if world_size() > 1:
        with _exchange():
            dist.all_reduce(x)
    return x


def sum_all_(tensors: Sequence[Tensor]) -> None:
    """Sum each of the tensors over the ranks, in place; they travel at the same time."""
    if world_size() > 1:
        with _exchange():
            works = [dist.all_reduce(x, async_op=True) for x in tensors]
            for work in works:
                if work is not None:
                    work.wait()


def gather_numbers(values: Sequence[float]) -> list[list[float]]:
    """Every rank's numbers, equally many, in the ranks' order; float64, bit for bit."""
    if world_size() == 1:
        return [list(values)]
    mine = torch.tensor(values, dtype=torch.float64, device=_device())
    rows: list[list[float]] = gather(mine).tolist()
    return rows


def gather(x: Tensor) -> Tensor:
    """Every rank's x, in their order: [...] -> [world_size, ...]."""
    if world_size() == 1:
        return x.unsqueeze(0)
    out = [torch.empty_like(x) for _ in range(world_size())]
    with _exchange():
        dist.all_gather(out, x.contiguous())
    return torch.stack(out)


def gather_objects(value: Any) -> list[Any]:
    """A picklable value of every rank, in their order."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    with _exchange():
        dist.all_gather_object(out, value)
    return out


def broadcast_object(value: Any) -> Any:
    """Rank 0's picklable value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    with _exchange():
        dist.broadcast_object_list(box, src=0)
    return box[0]


class _Sum(torch.autograd.Function):
    """The sum over ranks. Each rank's x moves every rank's result: its gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_(_copy(x))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return sum_over_ranks(grads[0])  # so that it can be differentiated again


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over the ranks, [...] -> [...], through which gradients flow back to all.

    What each rank computes from it counts towards the sum of the ranks' losses.
    """
    if world_size() == 1:
        return x
    if torch.is_grad_enabled() and x.requires_grad:
        total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]  # torch's
        return total
    return sum_(_copy(x))


def _copy(x: Tensor) -> Tensor:
    """A copy that an exchange may write to, in rows: ranks might hold other layouts."""
    return x.detach().clone(memory_format=torch.contiguous_format)


@torch.no_grad()
def broadcast_state(module: torch.nn.Module) -> None:
    """Copy rank 0's parameters and buffers into every rank's module, in place.

    Raises:
        ValueError: on all ranks, if their modules are of different shapes or dtypes.
    """
    if world_size() == 1:
        return
    # Not state_dict: it leaves buffers out that are not saved.
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    ours = {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()}
    for other, theirs in enumerate(gather_objects(ours)):
        if list(theirs.items()) != list(ours.items()):
            differ = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
            raise ValueError(
                f"every rank must build the same module, but rank {rank()} and rank {other} differ "
                f"in {differ[:5] or 'the order of their parts'}; give all ranks the same arguments"
            )
    for x in tensors.values():
        sent = x.detach().contiguous()
        with _exchange():
            dist.broadcast(sent, src=0)
        x.copy_(sent)
