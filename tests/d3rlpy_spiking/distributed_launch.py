"""Two ranks under torchrun."""

import os
import subprocess
import sys

from tests.common import ROOT

LIMIT_SECONDS = 150


def start_ranks(module: str, *args: str) -> "subprocess.Popen[str]":
    """`torchrun --nproc-per-node 2 -m module args`; its stdout is stderr too."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", module, *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and output; what hangs is ended."""
    try:
        out, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its ranks
        out, _ = process.communicate()
    return process.returncode, out


def run_ranks(module: str, *args: str) -> tuple[int, str]:
    """Start and finish."""
    return finish(start_ranks(module, *args))
