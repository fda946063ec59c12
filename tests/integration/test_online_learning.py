"""The list of online runs: what it keeps of each, and its exit code."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import TD3

from benchmarks import offline_replay_data, online_learning, stages
from d3rlpy_spiking.datasets import load_npz

# What stands in for RL Zoo: checkpoints, of which the newest two stay, a little apart.
CHECKPOINTS = """
import pathlib, shutil, sys, time
folder = pathlib.Path(sys.argv[1], "td3", "Pendulum-v1_1", "checkpoints")
for steps in (100, 200, 300, 400):
    part = folder / f".steps_{steps}.part"
    part.mkdir(parents=True)
    (part / "model.zip").write_text(str(steps))
    (part / "rank_0.pkl").write_text("a replay buffer")
    part.rename(folder / f"steps_{steps}")
    shutil.rmtree(folder / f"steps_{steps - 200}", ignore_errors=True)
    time.sleep(0.5 if steps < 400 else 0.0)
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def command(self: online_learning.Run, args: object) -> list[str]:
        return ["-c", code, str(self.folder(Path(vars(args)["out"])))]

    monkeypatch.setattr(online_learning.Run, "command", command)
    monkeypatch.setattr(online_learning, "POLL", 0.05)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The list ends its trainings when it is terminated; the tests do not."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def words(out: Path, *more: str) -> list[str]:
    given = ["--envs", "Pendulum-v1", "--kinds", "dense", "--seeds", "0", "--out", str(out)]
    return [*given, *more]


def checkpoint(folder: Path, steps: int, content: str, run: int = 1) -> Path:
    path = folder / "td3" / f"Pendulum-v1_{run}" / "checkpoints" / f"steps_{steps}" / "model.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_a_run_leaves_the_model_of_each_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, CHECKPOINTS)
    assert online_learning.main(words(tmp_path)) == 0
    folder = tmp_path / "dense" / "Pendulum-v1_seed0"
    # The last one is written just before the end.
    kept = {path.name: path.read_text() for path in (folder / "stages").iterdir()}
    assert kept == {f"steps_{steps}.zip": str(steps) for steps in (100, 200, 300, 400)}
    left = folder / "td3" / "Pendulum-v1_1" / "checkpoints"
    assert sorted(path.name for path in left.iterdir()) == ["steps_300", "steps_400"]


@pytest.mark.parametrize(
    ("code", "minutes", "expected"),
    [
        ("pass", "1", 0),
        ("raise SystemExit(3)", "1", 1),
        ("import time; time.sleep(100); raise SystemExit(3)", "0.001", 0),  # stopped, not failed
        ("raise SystemExit(3)", "0", 0),  # not even begun
    ],
)
def test_the_exit_code_says_whether_a_training_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    minutes: str,
    expected: int,
) -> None:
    stand_in(monkeypatch, code)
    assert online_learning.main(words(tmp_path, "--minutes", minutes)) == expected
    log = tmp_path / "dense" / "Pendulum-v1_seed0" / "output.txt"
    assert (f"failed, see {log}" in capsys.readouterr().err) == bool(expected)


def test_a_run_that_has_its_steps_is_stopped_and_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import pathlib, sys, time, numpy
run = pathlib.Path(sys.argv[1], "td3", "Pendulum-v1_1")
(run / "checkpoints" / "steps_300").mkdir(parents=True)
numpy.savez(run / "evaluations.npz", timesteps=[300])
time.sleep(100)
sys.exit(3)
"""
    stand_in(monkeypatch, code)
    assert online_learning.main(words(tmp_path, "--steps", "300", "--minutes", "2")) == 0


# What stands in for RL Zoo: a run that ends at its horizon of 450 steps, after its last evaluation.
END = """
import pathlib, sys, numpy
run = pathlib.Path(sys.argv[1], "td3", "Pendulum-v1_1")
run.mkdir(parents=True)
numpy.savez(run / "evaluations.npz", timesteps=[400])
(run / "distributed.json").write_text('{"steps": 450}')
"""


def test_a_run_that_ended_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, END)
    ending = words(tmp_path, "--steps", "450", "--horizon", "450")
    for _ in range(2):  # the second one would fail: its folder is there
        assert online_learning.main(ending) == 0
    assert online_learning.main(words(tmp_path, "--steps", "500")) == 1
    assert "ended at its --horizon of 450 steps and cannot go on to 500" in capsys.readouterr().err


def test_a_run_is_not_taken_for_one_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, END)
    config = tmp_path / "td3.yml"
    line = words(tmp_path, "--steps", "400", "--config", str(config), "--kinds", "dense", "spiking")

    def given(rate: float, **more: object) -> None:
        entry = {"n_timesteps": 10, "learning_rate": rate, "policy_kwargs": "dict()", **more}
        config.write_text(json.dumps({"Pendulum-v1": entry}))

    assert online_learning.main(line) == 1
    assert "No such file" in capsys.readouterr().err
    given(0.1)
    assert online_learning.main(line) == 0
    # What has no part in a dense run, or in any.
    given(0.1, n_timesteps=20, policy_kwargs="dict(T=3)", callback="sb3_spiking.x.Callback")
    assert online_learning.main([*line, "--kinds", "dense"]) == 0
    assert online_learning.main(line) == 1
    assert "spiking/Pendulum-v1_seed0 holds a run with other settings" in capsys.readouterr().err
    given(0.2)
    assert online_learning.main([*line, "--kinds", "dense"]) == 1
    assert "{'learning_rate': 0.1}" in capsys.readouterr().err
    assert online_learning.main([*line, "--envs", "Pendulum-v9"]) == 1
    assert "--envs must be in" in capsys.readouterr().err
    # A run that ended before its first evaluation is none that failed.
    for path in (tmp_path / "dense").rglob("evaluations.npz"):
        path.unlink()
    assert online_learning.main([*line, "--kinds", "dense"]) == 1
    # Starts of before settings were kept.
    path = tmp_path / "dense" / "Pendulum-v1_seed0" / "commits.jsonl"
    path.write_text(json.dumps({"from": 0, "commit": "a1", "command": []}) + "\n")
    assert online_learning.main([*line, "--kinds", "dense"]) == 0


def test_what_cannot_be_trained_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        (
            ["--plain", "--kinds", "dense", "popsan"],
            "names the policy and nothing else, got popsan",
        ),
        (["--steps", "2000000"], "--horizon must be at least --steps, 2000000, got 1000000"),
    ):
        with pytest.raises(SystemExit):
            online_learning.parse(wrong)
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("program", "expected"), [("true", 0), ("false", 1)])
def test_a_training_that_failed_in_one_of_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, expected: int
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which(program))
    assert online_learning.main(words(tmp_path, "--jobs", "2")) == expected


def test_a_stage_is_copied_once_unless_its_checkpoint_is_written_again(tmp_path: Path) -> None:
    stages.keep(tmp_path)  # nothing yet
    assert not list(tmp_path.iterdir())
    model = checkpoint(tmp_path, 100, "first")
    stages.keep(tmp_path)
    stage = tmp_path / "stages" / "steps_100.zip"
    before = stage.stat()
    stages.keep(tmp_path)
    assert stage.stat().st_ino == before.st_ino
    # A run that began anew, beside the folder of before.
    later = before.st_mtime + 10.0
    os.utime(checkpoint(tmp_path, 100, "second", run=2), (later, later))
    stages.keep(tmp_path)
    assert stage.read_text() == "second"
    assert model.read_text() == "first"
    # What a process that was killed had begun is none.
    (model.parents[1] / ".steps_200.part").mkdir()
    (model.parents[1] / ".steps_200.part" / "model.zip").write_text("part")
    stages.keep(tmp_path)
    assert [path.name for path in stage.parent.iterdir()] == ["steps_100.zip"]


def test_stages_up_to_a_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold models steps_N\.zip"):
        stages.found(tmp_path)
    for steps in (1_000, 200, 30):
        (tmp_path / f"steps_{steps}.zip").touch()
    (tmp_path / ".steps_5.zip.x.zip").touch()  # a copy that was cut short
    assert [path.name for path in stages.found(tmp_path)] == [
        "steps_30.zip", "steps_200.zip", "steps_1000.zip",
    ]  # fmt: skip
    assert [path.name for path in stages.found(tmp_path, 200)] == ["steps_30.zip", "steps_200.zip"]
    with pytest.raises(ValueError, match=r"--until must be at least 30, .* got 29"):
        stages.found(tmp_path, 29)


def test_replay_data_of_a_run_s_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, steps in enumerate((100, 200, 300)):
        path = checkpoint(tmp_path, steps, "")
        TD3("MlpPolicy", "Pendulum-v1", seed=seed, buffer_size=1).save(path)
    stages.keep(tmp_path)
    out, folder = tmp_path / "replay.npz", str(tmp_path / "stages")
    given = ["--env", "Pendulum-v1", "--steps", "420", "--out", str(out), "--checkpoints"]
    offline_replay_data.main([*given, folder, "--until", "200"])
    assert sum(len(episode) for episode in load_npz(out).episodes) == 420
    with np.load(out) as arrays:
        np.testing.assert_array_equal(np.bincount(arrays["checkpoint"]), [210, 210])
    assert f"{folder}/steps_200.zip | 210 |" in capsys.readouterr().out
    for wrong, message in (
        ([folder, "--until", "99"], "--until must be at least 100"),
        ([f"{folder}/steps_100.zip", "--until", "99"], "--until needs a folder"),
        ([f"{folder}/steps_101.zip"], "steps_101.zip is not there"),
        ([folder, "--env", "Nope-v0"], "--env must be an environment of Gymnasium, got 'Nope-v0'"),
    ):
        with pytest.raises(SystemExit):
            offline_replay_data.main([*given, *wrong])
        assert message in capsys.readouterr().err
