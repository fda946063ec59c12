"""`torchrun -m d3rlpy_spiking train`, in processes of its own."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from d3rlpy_spiking.cli.runs import load_algorithm
from tests.d3rlpy_spiking.cli_common import CONTINUOUS, train, write, write_npz
from tests.d3rlpy_spiking.distributed_launch import finish, run_ranks, start_ranks


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("data") / "pendulum.npz", 3, discrete=False)


def rank_pid(launcher: int, rank: int) -> int:
    """The process of a rank."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    raise AssertionError(f"no rank {rank}")


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError(f"there is no {path}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks in /proc")
def test_a_run_whose_rank_is_killed_goes_on_with_any_number(
    tmp_path: Path, pendulum: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [
        "--config", write(tmp_path, CONTINUOUS), "--dataset", pendulum, "--output", str(tmp_path),
    ]  # fmt: skip
    run = tmp_path / "tiny_0"
    process = start_ranks("d3rlpy_spiking", "train", *args, "--steps", "100000")
    wait_for(run / "model_20.d3", process)
    begin = time.monotonic()
    os.kill(rank_pid(process.pid, 1), signal.SIGKILL)
    code, out = finish(process)
    assert time.monotonic() - begin < 30
    assert code != 0
    said = [line for line in out.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "rank 0 of 2" in said[0]
    assert "--resume" in said[0]
    assert "Traceback" not in out.partition("error: ")[2].partition("\n")[0]
    assert not (run / "model.d3").exists()
    # On one rank, then on two.
    done = max(int(re.findall(r"\d+", path.stem)[0]) for path in run.glob("model_*.d3"))
    assert train(tmp_path, args[1], pendulum, "--resume", "--steps", str(done + 10)) == 0
    assert json.loads((run / "results.json").read_text())["ranks"] == 1
    assert (
        "processes were 2 and are 1 now: a gradient step is over 4 seq" in capsys.readouterr().out
    )
    evaluate = ["--eval-env", "Pendulum-v1", "--target-return", "-200"]
    more = ["--resume", "--steps", str(done + 20), *evaluate]
    code, out = run_ranks("d3rlpy_spiking", "train", *args, *more)
    assert code == 0, out
    assert out.count(f"step {done + 20}  environment") == 1
    assert out.count("saved ") == 1
    assert out.count("processes were 1 and are 2 now: a gradient step is over 8 sequences") == 1
    assert "error" not in out
    results = json.loads((run / "results.json").read_text())
    assert (results["ranks"], results["steps"]) == (2, done + 20)
    impl = load_algorithm(run / "model.d3", "cpu").impl
    assert int(impl.progress.step) == done + 20
    steps = [int(line.split(",")[1]) for line in (run / "loss.csv").read_text().splitlines()]
    assert steps == list(range(10, done + 21, 10))


def test_wrong_arguments_end_both_ranks(tmp_path: Path, pendulum: str) -> None:
    (tmp_path / "tiny_0").mkdir()
    (tmp_path / "tiny_0" / "model_10.d3").write_bytes(b"")
    config = write(tmp_path, CONTINUOUS)
    args = ["--config", config, "--dataset", pendulum, "--output", str(tmp_path)]
    code, out = run_ranks("d3rlpy_spiking", "train", *args)
    assert code != 0
    assert out.count("error: ") == 1
    assert "holds an unfinished run" in out
    # torchrun's own report of the processes
    assert set(re.findall(r"exitcode\s*: (-?\d+)", out)) == {"2"}
    assert [path.name for path in (tmp_path / "tiny_0").iterdir()] == ["model_10.d3"]
