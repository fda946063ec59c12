"""Ranks of this machine for the tests here."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def command(*args: str, ranks: int = 2) -> list[str]:
    """The command that runs a module on ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(ranks), *args]


def torchrun(
    *args: str, ranks: int = 2, timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run a module on ranks, to the end."""
    return subprocess.run(
        command(*args, ranks=ranks),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=timeout,
        check=False,
    )
