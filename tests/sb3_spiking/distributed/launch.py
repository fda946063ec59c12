"""Two ranks for the tests here."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def torchrun(
    *args: str, ranks: int = 2, timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run a module on ranks of this machine."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(ranks), *args,
    ]  # fmt: skip
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environ, timeout=timeout, check=False
    )
