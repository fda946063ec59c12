"""A benchmark's list of runs, worked on by several processes."""

import signal
import subprocess
import sys
from collections.abc import Sequence


def share_out(module: str, arguments: Sequence[str], jobs: int) -> None:
    """Run a module's command line in several processes; they end with this one.

    Args:
        module: as `python -m` takes it; it leaves a run to the process that claimed it.
        arguments: its command line.
        jobs: how many processes.

    Raises:
        SystemExit: with 1 if one of them failed, with 143 on SIGTERM.
    """
    # In this process alone. One that trains is ended by the signal: an exception that a handler
    # raises there may be swallowed (in a callback, in a destructor), and the training goes on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    line = [sys.executable, "-m", module, *arguments, "--jobs", "1"]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(jobs):
            processes.append(subprocess.Popen(line))
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    if any(codes):
        sys.exit(1)
