"""One rank: run every check and write what it found, `python -m ...worker FOLDER`."""

import os
import signal
import sys
import time
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn

from policies.distributed import DataParallel, RankLostError, average_gradients, process_group, rank

# A check in which ranks miss each other must not outlast the tests.
TIMEOUT = timedelta(seconds=60)


def run_all(folder: Path) -> None:
    """Run the checks in order; a failed one is a text."""
    # Each adds its checks to the table.
    from tests.policies.distributed import (  # noqa: F401
        checks_data_parallel,
        checks_gradients,
        checks_group,
        checks_statistics,
    )
    from tests.policies.distributed.common import CHECKS

    torch.manual_seed(int(os.environ["RANK"]))
    checks_data_parallel.EARLY = DataParallel(nn.Linear(3, 2))
    found = {}
    with process_group(timeout=TIMEOUT):
        for name, check in CHECKS.items():
            begin = time.perf_counter()
            try:
                found[name] = check()
            except Exception:
                found[name] = f"check failed: {traceback.format_exc()}"
            print(f"{name}: {time.perf_counter() - begin:.2f} s", file=sys.stderr)
        torch.save(found, folder / f"rank{rank()}.pt")


def lose_a_rank(folder: Path) -> None:
    """Rank 1 is killed between two steps; what rank 0 is told, and after how many seconds."""
    said = []
    begin = 0.0
    try:
        with process_group(timeout=TIMEOUT):
            net = DataParallel(nn.Linear(3, 2))
            net(torch.ones(4, 3)).sum().backward()
            if rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            begin = time.perf_counter()
            try:
                average_gradients(net.parameters())
            except RankLostError as error:
                said.append(str(error))
            # Through PyTorch's own exchange.
            net(torch.ones(4, 3)).sum().backward()
    except RankLostError as error:
        said.append(str(error))
    torch.save({"said": said, "seconds": time.perf_counter() - begin}, folder / "rank0.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    {"all": run_all, "lost": lose_a_rank}[sys.argv[1]](Path(sys.argv[2]))
