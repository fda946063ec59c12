"""`python -m d3rlpy_spiking train`, and the module in a process of its own."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import d3rlpy
import pytest
import torch

from d3rlpy_spiking import DSFormer
from d3rlpy_spiking.cli import main
from d3rlpy_spiking.cli.runs import load_algorithm
from d3rlpy_spiking.datasets import load_npz
from tests.d3rlpy_spiking.cli_common import CONTINUOUS, DENSE, train, write, write_npz


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("data") / "pendulum.npz", 3, discrete=False)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_npz(tmp_path_factory.mktemp("data") / "cartpole.npz", 4, discrete=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pendulum: str) -> Path:
    """The folder of a finished run of 40 steps; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(folder, write(folder, CONTINUOUS), pendulum, "--no-progress") == 0
    return folder / "tiny_0"


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_algorithm(path, "cpu").impl.network.state_dict()
    return state


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def steps_in(path: Path) -> list[int]:
    with path.open() as file:
        return [int(row[1]) for row in csv.reader(file) if row[1] != "step"]


# Training


def test_a_run_leaves_its_files(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"model.d3", "results.json", "run.json", "params.json", "runs", "theta.csv"} <= names
    assert {f"model_{step}.d3" for step in (10, 20, 30, 40)} <= names
    assert not [name for name in names if name.startswith(".")]
    assert list((trained / "runs").rglob("events.out.tfevents*"))
    assert steps_in(trained / "loss.csv") == [10, 20, 30, 40]
    record = json.loads((trained / "run.json").read_text())
    assert (record["algorithm"], record["seed"]) == ("dsformer", 0)
    algo = d3rlpy.load_learnable(str(trained / "model.d3"))
    assert int(algo.impl.progress.step) == 40
    assert_same_weights(trained / "model.d3", trained / "model_40.d3")


def test_a_seed_decides_the_weights(trained: Path, tmp_path: Path, pendulum: str) -> None:
    config = write(tmp_path, CONTINUOUS)
    assert train(tmp_path, config, pendulum) == 0
    assert_same_weights(trained / "model.d3", tmp_path / "tiny_0" / "model.d3")
    assert train(tmp_path, config, pendulum, "--seed", "1") == 0
    other = weights(tmp_path / "tiny_1" / "model.d3")
    assert not torch.equal(other["head.weight"], weights(trained / "model.d3")["head.weight"])


def stop_after(monkeypatch: pytest.MonkeyPatch, cls: type[Any], steps: int) -> None:
    """Let training be interrupted in the middle of an epoch."""
    update, done = cls.update, [0]

    def interrupted(self: Any, batch: Any) -> Any:
        done[0] += 1
        if done[0] > steps:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(cls, "update", interrupted)


def test_a_killed_run_goes_on(
    trained: Path, tmp_path: Path, pendulum: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = write(tmp_path, CONTINUOUS)
    with monkeypatch.context() as patch:
        stop_after(patch, DSFormer, 25)
        assert train(tmp_path, config, pendulum) == 130
    assert "--resume" in capsys.readouterr().err
    run = tmp_path / "tiny_0"
    # What a process that is killed may leave behind: metrics after the checkpoint, half a file.
    (run / ".model_30.d3.abc").write_bytes(b"half")
    with (run / "loss.csv").open("a") as file:
        file.write("3,30,0.5\n4,4")
    assert not (run / "model.d3").exists()
    copy = tmp_path / "copy"
    shutil.copytree(run, copy / "tiny_0")
    assert train(tmp_path, config, pendulum) == 2  # not without --resume
    assert "unfinished run of 20 steps" in capsys.readouterr().err
    assert train(tmp_path, config, pendulum, "--resume") == 0
    assert train(copy, config, pendulum, "--resume") == 0
    assert_same_weights(run / "model.d3", copy / "tiny_0" / "model.d3")
    assert not (run / ".model_30.d3.abc").exists()
    for name in ("loss.csv", "theta.csv", "transformer.head.weight_grad.csv"):
        assert steps_in(run / name) == [10, 20, 30, 40], name
    ours, whole = (load_algorithm(p / "model.d3", "cpu").impl for p in (run, trained))
    assert int(ours.progress.step) == 40
    assert float(ours.progress.theta) == float(whole.progress.theta) == 0.0
    for impl in (ours, whole):
        state = impl.modules.optim.state_dict()
        assert {int(s["step"]) for s in state["optim"]["state"].values()} == {40}
        assert state["lr_scheduler"]["last_epoch"] == 40
    rates = [i.modules.optim.optim.param_groups[0]["lr"] for i in (ours, whole)]
    assert rates[0] == rates[1] > 0


def test_a_dense_baselines_schedule_goes_on(
    tmp_path: Path, cartpole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, DENSE)
    with monkeypatch.context() as patch:
        stop_after(patch, d3rlpy.algos.DiscreteDecisionTransformer, 13)
        assert train(tmp_path, config, cartpole) == 130
    run = tmp_path / "tiny_0"
    before = load_algorithm(run / "model_10.d3", "cpu").impl._tokens
    assert 10 * 4 <= before <= 10 * 4 * 4
    assert train(tmp_path, config, cartpole, "--resume") == 0
    after = load_algorithm(run / "model.d3", "cpu").impl
    assert before + 10 * 4 <= after._tokens <= before + 10 * 4 * 4
    config_of_it = d3rlpy.load_learnable(str(run / "model.d3")).config
    rate = config_of_it.learning_rate * after._tokens / config_of_it.warmup_tokens
    assert after.modules.optim.optim.param_groups[0]["lr"] == pytest.approx(rate)


def test_a_finished_run_is_kept(
    trained: Path, tmp_path: Path, pendulum: str, cartpole: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "tiny_0"
    shutil.copytree(trained, run)
    config = write(tmp_path, CONTINUOUS)
    assert train(tmp_path, config, pendulum) == 2
    assert "holds a finished run of 40 steps" in capsys.readouterr().err
    assert train(tmp_path, config, pendulum, "--resume") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert train(tmp_path, config, pendulum, "--resume", "--steps", "20") == 2
    assert "has 40 steps already" in capsys.readouterr().err
    assert train(tmp_path, config, cartpole, "--resume", "--steps", "50") == 2
    assert "dataset is 'cartpole.npz', but was 'pendulum.npz'" in capsys.readouterr().err
    other = write(tmp_path, CONTINUOUS.replace("batch_size: 4", "batch_size: 8"))
    assert train(tmp_path, other, pendulum, "--resume", "--steps", "50") == 2
    assert "config.batch_size is 8, but was 4" in capsys.readouterr().err
    assert_same_weights(run / "model.d3", trained / "model.d3")
    # A longer run goes on from it; a process killed before the last file is finished by another.
    config = write(tmp_path, CONTINUOUS)
    assert train(tmp_path, config, pendulum, "--resume", "--steps", "50") == 0
    assert int(load_algorithm(run / "model.d3", "cpu").impl.progress.step) == 50
    (run / "model.d3").unlink()
    assert train(tmp_path, config, pendulum, "--resume", "--steps", "50") == 0
    assert_same_weights(run / "model.d3", run / "model_50.d3")


def test_checkpoints_are_evaluated(tmp_path: Path, pendulum: str) -> None:
    text = CONTINUOUS.replace(
        "n_steps: 40, n_steps_per_epoch: 10", "n_steps: 2, n_steps_per_epoch: 1"
    )
    config = write(tmp_path, text)
    args = ("--eval-env", "Pendulum-v1", "--target-return", "-200")
    assert train(tmp_path, config, pendulum, *args) == 0
    run = tmp_path / "tiny_0"
    assert steps_in(run / "environment.csv") == [1, 2]
    found = json.loads((run / "results.json").read_text())["episodes"]
    assert (found["episodes"], found["target_return"]) == (1, -200.0)
    last = (run / "environment.csv").read_text().splitlines()[-1]
    assert float(last.split(",")[2]) == found["mean"]
    # Looking does not change what is learned.
    assert train(tmp_path / "unseen", config, pendulum) == 0
    assert_same_weights(run / "model.d3", tmp_path / "unseen" / "tiny_0" / "model.d3")


def test_h5_datasets_train(
    tmp_path: Path, pendulum: str, cartpole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, source in (("a.h5", pendulum), ("b.h5", cartpole)):
        with (tmp_path / name).open("w+b") as file:
            load_npz(source).dump(file)
    config = write(tmp_path, CONTINUOUS)
    assert train(tmp_path, config, str(tmp_path / "a.h5"), "--steps", "2") == 0
    dense = write(tmp_path, DENSE, "dense")
    assert train(tmp_path, dense, str(tmp_path / "b.h5"), "--steps", "2") == 2
    assert "--action-size" in capsys.readouterr().err
    args = ("--steps", "2", "--action-size", "3")
    assert train(tmp_path, dense, str(tmp_path / "b.h5"), *args) == 0
    assert load_algorithm(tmp_path / "dense_0" / "model.d3", "cpu").impl.action_size == 3


# What is wrong before training starts


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dataset", "nowhere.npz"], "nowhere.npz: No such file"),
        (["--dataset", "data.csv"], "must be maze, a .npz file or a .h5 file"),
        (["--dataset", "maze"], "the maze has discrete actions, dsformer continuous"),
        (["--config", "nothing"], "no name of a shipped one: decision_transformer"),
        (["--config", "strl_maze"], "has maze options"),
        (["--steps", "0"], "--steps: must be an integer from 1 on"),
        (["--seed", "-1"], "--seed"),
        (["--device", "gpu"], "--device: must be cpu, cuda"),
        (["--action-size", "2"], "--action-size is for discrete actions"),
        (["--target-return", "2"], "--target-return is for --eval-env"),
        (["--eval-env", "Pendulum-v1"], "needs a return to ask for"),
        (["--eval-env", "Nowhere-v1", "--target-return", "1"], "'Nowhere-v1' cannot be made"),
        (["--eval-env", "CartPole-v1", "--target-return", "1"], r"shape \(4,\)"),
        (["--sede", "1"], "unrecognized arguments: --sede"),
    ],
)
def test_wrong_arguments_are_named(
    tmp_path: Path, pendulum: str, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    argv = ["train", "--config", write(tmp_path, CONTINUOUS), "--dataset", pendulum]
    assert main([*argv, "--output", str(tmp_path / "out"), *args]) == 2
    out = capsys.readouterr()
    lines = out.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message.replace("\\", "") in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONTINUOUS.replace("num_layers: 1", "num_heads: 3"), "num_heads must divide the width"),
        (CONTINUOUS.replace("type: vector, params: {hidden_units: [8], exclude_last_activation: "
                            "true}", "type: pixel"), "no network can be built"),
        (CONTINUOUS + "  timestep_embedding: true\n  max_timestep: 19\n",
         "at least the longest episode, 20 steps"),
        (CONTINUOUS.replace("action_scaler", "# "), "must lie in [-1, 1]"),
        (DENSE, "needs discrete actions, but the dataset has continuous"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_dataset_is_named(
    tmp_path: Path, pendulum: str, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert train(tmp_path / "out", write(tmp_path, text), pendulum) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_traceback_is_shown_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["fold", "--model", str(tmp_path / "no.d3"), "--output", str(tmp_path / "out.d3")]
    assert main(args) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*args, "--traceback"]) == 2
    assert "load_algorithm" in capsys.readouterr().err


# A process of its own


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
    folder = tmp_path_factory.mktemp("process")
    return subprocess.run(
        [sys.executable, "-m", "d3rlpy_spiking", "fold", "--model", "no.d3", "--output", "out.d3"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_module_runs_and_exits_with_2(process: "subprocess.CompletedProcess[str]") -> None:
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == "error: no.d3: No such file or directory"
    assert "Traceback" not in process.stderr


def test_nothing_but_the_commands_own_lines_is_printed(
    process: "subprocess.CompletedProcess[str]",
) -> None:
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == 1
