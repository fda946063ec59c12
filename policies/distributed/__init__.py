"""More than one process, and mixed precision, for any module and any training loop.

`torchrun --nproc-per-node 2 script.py` starts two processes of a script that says

    with process_group():
        net = DataParallel(module, amp="bf16")

or, around training loops that call parts of a module, `average_gradients(parameters)` between
`backward` and `step`, after one `broadcast_state(module)` and `share_statistics(module)`.
"""

from policies.distributed.data_parallel import DataParallel
from policies.distributed.gradients import average_gradients, loss_factor
from policies.distributed.group import (
    RankLostError,
    barrier,
    broadcast_object,
    broadcast_state,
    exchange_seconds,
    gather_objects,
    is_main,
    local_rank,
    process_group,
    rank,
    sum_over_ranks,
    world_size,
)
from policies.distributed.precision import FixedScaler, LayerAutocast, Precision, autocast
from policies.distributed.statistics import share_statistics

__all__ = [
    "DataParallel",
    "FixedScaler",
    "LayerAutocast",
    "Precision",
    "RankLostError",
    "autocast",
    "average_gradients",
    "barrier",
    "broadcast_object",
    "broadcast_state",
    "exchange_seconds",
    "gather_objects",
    "is_main",
    "local_rank",
    "loss_factor",
    "process_group",
    "rank",
    "share_statistics",
    "sum_over_ranks",
    "world_size",
]
