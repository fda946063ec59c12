"""The command, as a user types it."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO, TD3

from benchmarks.kill_ranks import ranks
from policies.energy.gps_up import RunRecord
from sb3_spiking.distributed.__main__ import main
from tests.sb3_spiking.distributed.launch import ROOT, command, torchrun

SMALL = ["learning_starts:20", "batch_size:16", "policy_kwargs:dict(net_arch=[16])"]


def arguments(logs: Path, steps: int, *more: str, algo: str = "td3") -> list[str]:
    return [
        "-m", "sb3_spiking.distributed", "train", "--algo", algo, "--env", "Pendulum-v1",
        "-n", str(steps), "-f", str(logs), "--seed", "3", *more,
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_lost_rank_ends_the_run_which_resumes(tmp_path: Path) -> None:
    small = ["--save-freq", "60", "--eval-freq", "100", "-params", *SMALL]
    run = subprocess.Popen(
        command(*arguments(tmp_path, 1_000_000, *small)),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    folder = tmp_path / "td3" / "Pendulum-v1_1"
    wait_for_checkpoint(run, folder)
    os.kill(ranks(run.pid)[1], signal.SIGKILL)
    _, errors = run.communicate(timeout=30)
    assert run.returncode != 0
    assert "training goes on from its last checkpoint" in errors

    saved = max(int(path.name[6:]) for path in folder.glob("checkpoints/steps_*"))
    lines = (folder / "0.monitor.csv").read_text().count("\n")
    done = torchrun(*arguments(tmp_path, saved + 450, "--resume", *small))
    assert done.returncode == 0, done.stderr
    assert f"Resuming {folder} from step {saved}" in done.stdout
    model = TD3.load(folder / "Pendulum-v1.zip")
    assert saved + 450 <= model.num_timesteps <= saved + 452
    assert (folder / "0.monitor.csv").read_text().count("\n") >= lines
    evaluated = np.load(folder / "evaluations.npz")["timesteps"]
    assert list(evaluated) == sorted(set(evaluated))
    assert not (evaluated % 100).any()  # as without an interruption
    record = RunRecord.load(folder / "distributed.json")
    assert (record.ranks, record.steps) == (2, model.num_timesteps - saved)
    assert list(folder.rglob(".*part*")) == []

    again = torchrun(*arguments(tmp_path, 60, "--resume", *small))
    assert "Nothing to resume" in again.stdout
    assert (tmp_path / "td3" / "Pendulum-v1_2" / "Pendulum-v1.zip").exists()


def test_dense_rollouts_with_shared_statistics(tmp_path: Path) -> None:
    done = torchrun(
        *arguments(
            tmp_path, 256, "--dense", "--split", "--eval-ranks", "all", "--eval-freq", "128",
            "-params", "n_steps:64", "n_envs:1", "batch_size:64", "normalize:True", algo="ppo",
        )
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "ppo" / "Pendulum-v1_1"
    model = PPO.load(folder / "Pendulum-v1.zip")
    assert model.num_timesteps == 256
    assert (model.n_steps, model.batch_size) == (64, 64)
    assert (folder / "Pendulum-v1" / "vecnormalize.pkl").exists()
    assert (folder / "rank_1" / "0.monitor.csv").exists()
    assert np.load(folder / "evaluations.npz")["results"].shape == (2, 6)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_interrupted_runs_end_and_resume(tmp_path: Path) -> None:
    small = ["--save-freq", "60", "--eval-freq", "-1", "-params", *SMALL, "normalize:True"]
    folder = tmp_path / "td3" / "Pendulum-v1_1"
    run = subprocess.Popen(
        command(*arguments(tmp_path, 1_000_000, *small)),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    wait_for_checkpoint(run, folder)
    for process in ranks(run.pid).values():
        os.kill(process, signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert "interrupted; training goes on" in errors or "could not exchange data" in errors
    assert not (folder / "Pendulum-v1.zip").exists()
    saved = max(int(path.name[6:]) for path in folder.glob("checkpoints/steps_*"))
    with open(
        folder / "checkpoints" / f"steps_{saved}" / "Pendulum-v1" / "vecnormalize.pkl", "rb"
    ) as f:
        count = pickle.load(f).obs_rms.count
    assert count == pytest.approx(saved, abs=20)
    changed = torchrun(*arguments(tmp_path, saved + 60, "--resume", *small, "gamma:0.5"))
    assert changed.returncode != 0
    assert "gamma is 0.5, but was" in changed.stderr
    short = torchrun(*arguments(tmp_path, 10, "--resume", *small))
    assert f"-n must be more than the {saved} steps" in short.stderr
    done = torchrun(*arguments(tmp_path, saved + 60, "--resume", *small))
    assert done.returncode == 0, done.stderr
    with open(folder / "Pendulum-v1" / "vecnormalize.pkl", "rb") as f:
        assert pickle.load(f).obs_rms.count >= count + 60


def wait_for_checkpoint(run: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 90.0
    while not list(folder.glob("checkpoints/steps_*")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_errors_are_one_line_on_each_rank(tmp_path: Path) -> None:
    done = torchrun(*arguments(tmp_path, 100, "-params", "train_freq:(1,'episode')"))
    assert done.returncode != 0
    said = re.findall(r"^error on rank \d: train_freq=\(1, 'episode'\).*$", done.stderr, re.M)
    assert said
    assert "line " not in done.stderr.split("E1")[0]


def test_comparison_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, seconds in ((1, 10.0), (2, 6.0)):
        (tmp_path / str(count)).mkdir()
        parts = {"environment": 1.0, "gradient": 2.0, "exchange": 0.5}
        record = RunRecord(100, "environment steps", count, seconds, parts)
        record.save(tmp_path / str(count) / "distributed.json")
    main(["compare", str(tmp_path / "1"), str(tmp_path / "2")])
    printed = capsys.readouterr().out
    assert "1.67" in printed
    assert "not measured" in printed


@pytest.mark.slow
def test_ten_ranks_killed_at_random_moments() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill_ranks", "--times", "10"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout
