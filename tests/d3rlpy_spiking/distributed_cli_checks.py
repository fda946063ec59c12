"""What two ranks find out about the command line, in a group that they are in already."""

import contextlib
import io
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import d3rlpy
from d3rlpy.dataset import ReplayBuffer

from d3rlpy_spiking.cli import main
from policies.distributed import barrier, gather_objects, is_main, rank
from tests.d3rlpy_spiking.cli_common import DENSE, write, write_npz
from tests.d3rlpy_spiking.distributed_checks import digest, equal


@contextlib.contextmanager
def _watched(drawn: list[bytes]) -> Iterator[None]:
    """Keep what batches are drawn."""
    draw = ReplayBuffer.sample_trajectory_batch

    def keep(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = draw(self, *args, **kwargs)
        drawn.append(batch.observations.tobytes())
        return batch

    with patch.object(ReplayBuffer, "sample_trajectory_batch", keep):
        yield


def _run(*args: str) -> tuple[int | None, str, str]:
    """Exit code and output of a command; None and the error after a fault."""
    out, err = io.StringIO(), io.StringIO()
    code: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(args))
    except RuntimeError as error:
        err.write(f"{type(error).__name__}: {error}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return code, out.getvalue(), err.getvalue()


def _data(folder: Path) -> tuple[str, str]:
    """A config and a dataset, which rank 0 writes."""
    if is_main():
        write(folder, DENSE, "dense")
        write_npz(folder / "cartpole.npz", 4, discrete=True)
    barrier()
    return str(folder / "dense.yml"), str(folder / "cartpole.npz")


def trained(folder: Path) -> dict[str, Any]:
    """A dense baseline on two ranks, evaluated at its checkpoints, then gone on with."""
    config, data = _data(folder)
    args = ["train", "--config", config, "--dataset", data, "--output", str(folder / "out")]
    evaluate = ["--eval-env", "CartPole-v1", "--target-return", "20"]
    first: list[bytes] = []
    with _watched(first):
        codes = [_run(*args, *evaluate)]
    run = folder / "out" / "dense_0"
    found: dict[str, Any] = {"files": sorted(path.name for path in run.iterdir())}
    found["state"] = equal(digest(d3rlpy.load_learnable(str(run / "model.d3"))))
    second: list[bytes] = []
    with _watched(second):
        codes.append(_run(*args, "--resume", "--steps", "30"))
    found["codes"] = [code for code, _, _ in codes]
    found["said"] = [[out, err] for _, out, err in codes]
    # The first batches are the trial's.
    every = gather_objects(first[1:] + second[1:])
    found["batches"] = len({batch for drawn in every for batch in drawn})
    return found


def failed(folder: Path) -> dict[str, Any]:
    """Errors on one rank: exit codes of both, and who says what."""
    config, data = _data(folder)
    run = folder / "taken" / "dense_0"
    args = ["train", "--config", config, "--output", str(folder / "taken"), "--dataset"]
    if is_main():
        run.mkdir(parents=True)
        shutil.copy(folder / "a.d3", run / "model_10.d3")
    barrier()
    own = data if is_main() else str(folder / "nowhere.npz")
    cases: dict[str, Any] = {
        "taken": [*args, data],
        "missing on rank 1": [*args, own, "--seed", "1"],
        "two problems": [*args, str(folder / f"nowhere{rank()}.npz"), "--seed", "1"],
        "evaluate": ["evaluate", "--model", str(folder / "a.d3"), "--env", "Pendulum-v1"],
        "another device": [*args, data, "--seed", "1", "--device", "cuda:1"],
    }
    found = {}
    for name, argv in cases.items():
        code, _, err = _run(*argv)
        found[name] = [code, err]
    fault = RuntimeError("a fault") if is_main() else None
    with patch("d3rlpy_spiking.cli.train.load_data", side_effect=fault):
        code, _, err = _run(*args, data, "--seed", "1")
        found["fault"] = [code, err]
    return found
