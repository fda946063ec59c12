"""The worker process that runs SANA-FE: what is sent to it, what comes back, how it may fail.

SANA-FE is under the GPL, this project under the MIT licence: SANA-FE is imported in a process of
its own, which `policies/energy/loihi_worker.py` is, and files in a temporary folder are all that
passes between the two.

    request.npz   header   JSON: protocol; spike_steps T; inputs: [core, start, stop] for each core
                           of input neurons; layers: for each its "neuron" (attributes of SANA-FE's
                           neuron model) and its "cores", again [core, start, stop]
                  spikes   uint8 [D, T, inputs], a spike train for each of D decisions
                  weightK, biasK   float32 [out, in] and [out] of layer K
    result.json   version of SANA-FE; decisions: for each its "energy" (J), "seconds" on the chip,
                  "synaptic_events", and "spikes": for each layer step * neurons + neuron

Each layer is one step behind the one before it, so a decision takes T + layers steps.
"""

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROTOCOL = 1
WORKER = Path(__file__).with_name("loihi_worker.py")
_LAST_LINES = 8
_PARTS = {"total", "synapse", "soma", "network"}


class LoihiWorkerError(RuntimeError):
    """The process that runs SANA-FE failed; the message ends with the last lines it wrote."""


class LoihiTimeoutError(LoihiWorkerError, TimeoutError):
    """The process that runs SANA-FE took too long and was ended."""


@dataclass(frozen=True)
class Decision:
    """What the chip did in one decision.

    Attributes:
        energy: J, by part of the chip, with their "total".
        seconds: time on the chip, s.
        synaptic_events: weights that spikes fetched and added.
        spikes: of each layer, bool [T + layers, N].
    """

    energy: dict[str, float]
    seconds: float
    synaptic_events: float
    spikes: list[NDArray[np.bool_]]


def check_installed() -> None:
    """Raise ImportError unless SANA-FE can be found; it is not imported here.

    Raises:
        ImportError: if it is not installed.
    """
    if importlib.util.find_spec("sanafe") is None:
        raise ImportError(
            "the Loihi simulation needs SANA-FE (GPL-3.0, run as a process of its own): "
            "pip install 'spiking-policies[loihi]'"
        )


def run_worker(
    header: dict[str, Any], arrays: dict[str, NDArray[Any]], timeout: float
) -> tuple[str, list[Decision]]:
    """Simulate a request in a fresh process; SANA-FE's version and the decisions.

    Raises:
        LoihiTimeoutError: if it takes longer than timeout, s.
        LoihiWorkerError: if it fails, or leaves no result or one that is not whole.
    """
    with tempfile.TemporaryDirectory(prefix="loihi-") as folder:
        request, result, log = (
            Path(folder) / name for name in ("request.npz", "result.json", "log.txt")
        )
        text = json.dumps({"protocol": PROTOCOL, **header})
        np.savez(request, header=np.array(text), **arrays)  # type: ignore[arg-type]  # numpy's stub
        _run(request, result, log, timeout)
        try:
            found = json.loads(result.read_text())
            sizes = [layer["cores"][-1][2] for layer in header["layers"]]
            decisions = [
                _decision(entry, header["spike_steps"] + len(sizes), sizes)
                for entry in found["decisions"]
            ]
            if len(decisions) != len(arrays["spikes"]):
                raise ValueError(f"{len(decisions)} decisions for {len(arrays['spikes'])}")
            return str(found["version"]), decisions
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise LoihiWorkerError(
                f"SANA-FE's process left no result that can be used ({type(error).__name__}: "
                f"{error}){_last_lines(log)}"
            ) from error


def _run(request: Path, result: Path, log: Path, timeout: float) -> None:
    # By its path, not as a module: that would import torch first. -P keeps the modules beside it
    # from standing in for others of their names.
    command = [sys.executable, "-P", str(WORKER), str(request), str(result)]
    with log.open("wb") as out:
        try:
            # It ends the process and waits for it, also on a timeout and on Ctrl-C.
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise LoihiTimeoutError(
                f"SANA-FE's process took longer than timeout={timeout:g} s and was ended; pass a "
                f"longer timeout or fewer decisions{_last_lines(log)}"
            ) from None
    if code != 0:
        end = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
        raise LoihiWorkerError(f"SANA-FE's process {end}{_last_lines(log)}")


def _decision(entry: dict[str, Any], steps: int, sizes: list[int]) -> Decision:
    if missing := _PARTS - set(entry["energy"]):
        raise ValueError(f"energy lacks {sorted(missing)}")
    numbers = [*entry["energy"].values(), entry["seconds"], entry["synaptic_events"]]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"energies and times must be finite and at least 0, got {numbers}")
    spikes = []
    for size, fired in zip(sizes, entry["spikes"], strict=True):
        layer = np.zeros(steps * size, dtype=np.bool_)
        layer[np.asarray(fired, dtype=np.int64)] = True
        spikes.append(layer.reshape(steps, size))
    return Decision(
        {name: float(value) for name, value in entry["energy"].items()},
        float(entry["seconds"]),
        float(entry["synaptic_events"]),
        spikes,
    )


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    return "; its last lines:\n" + "\n".join(lines) if lines else "; it wrote nothing"
