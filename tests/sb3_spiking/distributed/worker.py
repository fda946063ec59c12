"""What each rank does; started by torchrun, writes `<folder>/<mode>_<rank>.pt`."""

import sys
from pathlib import Path
from typing import Any

import torch

from policies.distributed import process_group, rank, world_size
from sb3_spiking.distributed import distribute, steps
from tests.sb3_spiking.distributed import cases


def results(mode: str) -> dict[str, Any]:
    """Of every algorithm."""
    if mode == "apart":  # as the test must not find it
        vars(steps)["average_gradients"] = lambda *args, **kwargs: None
    out = {}
    for name in cases.NAMES if mode == "together" else ("td3", "ppo dense"):
        model = distribute(cases.build(name))
        model.distribution.compared = mode == "apart"  # training would find out by itself
        out[name] = cases.run(model, name, rank(), world_size(), cases.UPDATES)
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with process_group():
        for kind in ("together", "apart"):
            torch.save(results(kind), folder / f"{kind}_{rank()}.pt")
