"""Print the peak memory of one training step, in MB; `memory` starts it in a fresh process."""

import gc
import re
import sys
from pathlib import Path

import torch

from benchmarks.speed.actor import OBS, make_ours, rivals, training
from benchmarks.speed.choices import Choice


def resident(field: str) -> float:
    """A field of /proc/self/status, MB: VmRSS is now, VmHWM the peak."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    """Measure the network that the arguments name."""
    row, batch, matmul, backward, kernel = sys.argv[1:]
    torch.set_num_threads(1)
    if row == "ours":
        network = make_ours(Choice(matmul or None, backward or None, kernel or None))
    else:
        network = rivals()[0][row]  # type: ignore[assignment]  # any network will do
    # A small step first: libraries load and kernels compile in it.
    training(network, torch.zeros(1, OBS))()
    step = training(network, torch.zeros(int(batch), OBS))
    gc.collect()
    # Sets the peak back to what is held now.
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
    before = resident("VmRSS")
    step()
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
