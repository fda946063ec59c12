"""Helpers that several test folders share."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).parent / "data"
# Reference data that is not part of the repository; tests that need it skip without it.
POPSAN_FILE = ROOT.parent / "shared" / "reference" / "popsan_halfcheetah.npz"

needs_popsan = pytest.mark.skipif(
    not POPSAN_FILE.is_file(), reason="the published PopSAN actor is not beside the repository"
)


def run_python(code: str, *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """Run code in a fresh interpreter; its standard output, or an AssertionError with stderr."""
    return _run(["-c", code], cwd, env)


def run_module(module: str, *args: str, cwd: Path = ROOT) -> str:
    """As run_python, for `python -m module args`."""
    return _run(["-m", module, *args], cwd, None)


def _run(args: list[str], cwd: Path, env: Mapping[str, str] | None) -> str:
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def popsan_parameters(
    file: Mapping[str, NDArray[np.float32]], prefix: str = ""
) -> dict[str, Tensor]:
    """PopulationActor parameters (or, with prefix "grad.", gradients) of a PopSAN archive.

    Spelled out here on its own, so that it checks load_popsan rather than repeats it.
    """
    theirs = {
        "encoder.mean": "encoder.mean",
        "encoder.std": "encoder.std",
        "mlp.linears.0.weight": "snn.hidden_layers.0.weight",
        "mlp.linears.0.bias": "snn.hidden_layers.0.bias",
        "mlp.linears.1.weight": "snn.hidden_layers.1.weight",
        "mlp.linears.1.bias": "snn.hidden_layers.1.bias",
        "mlp.linears.2.weight": "snn.out_pop_layer.weight",
        "mlp.linears.2.bias": "snn.out_pop_layer.bias",
        "decoder.weight": "decoder.decoder.weight",
        "decoder.bias": "decoder.decoder.bias",
    }
    parameters = {ours: torch.from_numpy(file[prefix + name]) for ours, name in theirs.items()}
    for name in ("encoder.mean", "encoder.std"):
        parameters[name] = parameters[name][0]
    parameters["decoder.weight"] = parameters["decoder.weight"][:, 0]
    return parameters
