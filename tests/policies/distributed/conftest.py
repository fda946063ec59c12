"""Both ranks, started once for all tests."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.common import ROOT

LIMIT_SECONDS = 200


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where two ranks under torchrun have left what they found, and what they printed."""
    folder = tmp_path_factory.mktemp("ranks")
    worker = ["-m", "tests.policies.distributed.worker", "all", str(folder)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, *worker],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="session")
def ranks(launched: tuple[Path, str]) -> dict[str, list[Any]]:
    """What each check found, on rank 0 and on rank 1."""
    folder, _ = launched
    found = [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in range(2)]
    return _Found({name: [found[0][name], found[1][name]] for name in found[0]})


class _Found(dict[str, list[Any]]):
    """A failed check, which is a text, fails the test that asks for it."""

    def __getitem__(self, name: str) -> list[Any]:
        both = super().__getitem__(name)
        for found in both:
            assert not isinstance(found, str), found
        return both
