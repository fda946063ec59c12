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
import numpy as np
from d3rlpy.dataset import ReplayBuffer

from d3rlpy_spiking.cli import main
from d3rlpy_spiking.cli.logs import RunAdapter, _mean_over_ranks
from d3rlpy_spiking.cli.ranks import main_file
from policies.distributed import barrier, gather_objects, is_main, rank
from tests.d3rlpy_spiking.cli_common import CONTINUOUS, DENSE, write, write_npz
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
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            patch("d3rlpy_spiking.cli.errors.WAIT_SECONDS", 0.0),
        ):
            code = main(list(args))
    except RuntimeError as error:
        err.write(f"{type(error).__name__}: {error}")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
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


def own_files(folder: Path) -> dict[str, Any]:
    """Machines that share no files: only rank 0 has a config, and their datasets differ."""
    own = folder / f"rank{rank()}"
    own.mkdir()
    if is_main():
        write(own, CONTINUOUS)
    data = write_npz(own / "pendulum.npz", 3, discrete=False)
    with np.load(data) as content:
        arrays = dict(content)
    arrays["observations"] = arrays["observations"] * (1 + rank())
    np.savez(data, **arrays)
    args = ["--config", str(own / "tiny.yml"), "--dataset", data, "--output", str(folder / "own")]
    fit = RunAdapter.save_model
    scalers: list[Any] = []

    def keep(self: Any, epoch: int, algo: Any) -> None:
        scalers.append(algo.config.observation_scaler.serialize())
        fit(self, epoch, algo)

    with patch.object(RunAdapter, "save_model", keep):
        code, _, err = _run("train", *args, "--steps", "10")
    algo = d3rlpy.load_learnable(str(folder / "own" / "tiny_0" / "model.d3"))
    # The last observation of each episode is in no transition of d3rlpy's.
    mean = arrays["observations"].mean(axis=0).tolist()
    return {
        "code": code,
        "err": err,
        "same scaler": equal(scalers),
        "saved": scalers == [algo.config.observation_scaler.serialize()],
        "own mean": mean,
        "mean": algo.config.observation_scaler.mean.tolist(),
    }


def pieces(folder: Path) -> dict[str, Any]:
    """A file that only rank 0 has, and metrics."""
    path = folder / f"only{rank()}" / "model.d3"
    if is_main():
        path.parent.mkdir()
        path.write_bytes(b"content")
    with main_file(path) as found:
        content = found.read_bytes().decode()
    metrics = _mean_over_ranks({"loss": float(rank()), "theta": 0.25})
    return {"content": content, "gone": not is_main() and not found.exists(), "metrics": metrics}


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
