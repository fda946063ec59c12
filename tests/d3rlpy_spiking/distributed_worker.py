"""One of two ranks: `python -m tests.d3rlpy_spiking.distributed_worker FOLDER`, under torchrun."""

import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from d3rlpy_spiking.cli.quiet import quiet_logs
from policies.distributed import process_group, rank
from tests.d3rlpy_spiking import distributed_alike_checks as alike
from tests.d3rlpy_spiking import distributed_checks as checks
from tests.d3rlpy_spiking import distributed_cli_checks as cli


def main(folder: Path) -> None:
    """Run every check; a failed one is a text."""
    found: dict[str, Any] = {}
    every: dict[str, Callable[[], Any]] = {
        "gradients": checks.all_gradients,
        "updates": checks.updates,
        "schedules": checks.schedules,
        "q_learning": checks.q_learning,
        "acts_alone": checks.acts_alone,
        "loaded": lambda: checks.loaded(folder),
        "fits": checks.fits,
        "refused": checks.refused,
        "unlike": alike.refused,
        "hooked": alike.hooked,
        "losses": alike.losses,
        "trained": lambda: cli.trained(folder),
        "failed": lambda: cli.failed(folder),
        "own files": lambda: cli.own_files(folder),
        "pieces": lambda: cli.pieces(folder),
    }
    with quiet_logs(), process_group("gloo", timeout=timedelta(seconds=60)):
        for name, check in every.items():
            begin = time.perf_counter()
            try:
                found[name] = check()
            except Exception:
                found[name] = f"check failed: {traceback.format_exc()}"
            print(f"{name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        algo = checks.make("dsformer")
        number = rank()
    found["after"] = checks.after(algo)
    (folder / f"rank{number}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
