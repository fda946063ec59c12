"""`python -m d3rlpy_spiking evaluate` and `fold`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from d3rlpy.algos import DecisionTransformerConfig

from d3rlpy_spiking.cli import main
from d3rlpy_spiking.cli.runs import load_algorithm
from tests.d3rlpy_spiking.cli_common import CONTINUOUS, MAZE, train, write, write_npz


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = write_npz(folder / "pendulum.npz", 3, discrete=False)
    assert train(folder, write(folder, CONTINUOUS), data, "--steps", "10") == 0
    return folder / "tiny_0"


@pytest.fixture(scope="module")
def maze_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maze")
    assert train(folder, write(folder, MAZE), "maze") == 0
    return folder / "tiny_0"


def evaluate(model: Path, *args: str) -> int:
    return main(["evaluate", "--model", str(model), *args])


def test_evaluation_in_an_environment_is_deterministic(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--env", "Pendulum-v1", "--target-return", "-200", "--episodes", "1"]
    results = []
    for i, seed in enumerate(("3", "3", "4")):
        file = tmp_path / f"{i}.json"
        assert evaluate(trained / "model.d3", *args, "--seed", seed, "--json", str(file)) == 0
        results.append(json.loads(file.read_text()))
    assert results[0] == results[1]
    assert results[0]["returns"] != results[2]["returns"]
    assert results[0]["mean"] == results[0]["returns"][0] < 0
    assert results[0]["d4rl_score"] is None
    assert "mean return" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--env", "Pendulum-v1"], "needs --target-return"),
        (["--env", "CartPole-v1", "--target-return", "1"], "take the environment of its dataset"),
        (
            ["--env", "Pendulum-v1", "--target-return", "1", "--config", "x"],
            "is for --dataset maze",
        ),
        (["--dataset", "maze"], "the maze has discrete actions, DSFormer continuous"),
        ([], "one of the arguments --env --dataset is required"),
        (["--env", "Pendulum-v1", "--dataset", "maze"], "not allowed with"),
    ],
)
def test_what_cannot_be_evaluated_is_named(
    trained: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert evaluate(trained / "model.d3", *args) == 2
    assert message in capsys.readouterr().err


def test_mazes_are_evaluated_as_after_training(
    maze_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = json.loads((maze_run / "results.json").read_text())["accuracy"]
    assert after["mazes"]["steps"] >= 30
    assert 0.0 <= after["pairs"]["optimal"] <= 1.0
    file = tmp_path / "maze.json"
    args = ["--dataset", "maze", "--episodes", "3", "--json", str(file)]
    assert evaluate(maze_run / "model.d3", *args) == 0
    found = json.loads(file.read_text())
    assert found["accuracy"] == after
    assert found["maze"]["size"] == 5
    assert found["walks"]["pairs"]["episodes"] == 3
    assert "walks reach the goal" in capsys.readouterr().out
    assert evaluate(maze_run / "model.d3", *args, "--seed", "7") == 0
    assert json.loads(file.read_text())["maze"]["seed"] == 7
    assert json.loads(file.read_text())["accuracy"] != after


def test_mazes_must_be_those_of_the_model(
    maze_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "model.d3"
    shutil.copy(maze_run / "model.d3", lone)
    assert evaluate(lone, "--dataset", "maze") == 2
    assert "no run.json beside" in capsys.readouterr().err
    larger = write(tmp_path, MAZE.replace("size: 5", "size: 6"))
    assert evaluate(lone, "--dataset", "maze", "--config", larger) == 2
    assert "observations of shape (6, 6, 6)" in capsys.readouterr().err


def test_a_folded_model_decides_the_same(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "folded.d3"
    assert main(["fold", "--model", str(trained / "model.d3"), "--output", str(target)]) == 0
    expected = "real-valued remain: encoder, action_embed, rtg_embed, embed_ln, head\n"
    assert capsys.readouterr().out.endswith(expected)
    folded, whole = (load_algorithm(p, "cpu") for p in (target, trained / "model.d3"))
    assert folded.config.normalization == "folded"
    actors = [algo.as_stateful_wrapper(target_return=-200.0) for algo in (folded, whole)]
    rng = np.random.default_rng(0)
    for _ in range(6):
        obs = rng.normal(size=3).astype(np.float32)
        actions = [actor.predict(obs, 0.1) for actor in actors]
        np.testing.assert_allclose(actions[0], actions[1], atol=1e-4)


def test_what_cannot_be_folded_is_named(
    trained: Path, maze_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, model = str(tmp_path / "folded.d3"), str(trained / "model.d3")
    assert main(["fold", "--model", str(maze_run / "model.d3"), "--output", target]) == 2
    assert "cannot be folded" in capsys.readouterr().err
    assert main(["fold", "--model", model, "--output", model]) == 2
    assert "another file than --model" in capsys.readouterr().err
    config = tmp_path / "text.d3"
    config.write_text("no model")
    assert main(["fold", "--model", str(config), "--output", target]) == 2
    assert "damaged or no model of d3rlpy" in capsys.readouterr().err
    dense = DecisionTransformerConfig().create()
    dense.create_impl((3,), 1)
    dense.save(str(tmp_path / "dense.d3"))
    assert main(["fold", "--model", str(tmp_path / "dense.d3"), "--output", target]) == 2
    assert "must hold a spiking transformer" in capsys.readouterr().err
    assert not Path(target).exists()


def test_labels_are_true_of_the_model(
    maze_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = maze_run / "model.d3"
    fewer = write(tmp_path, MAZE.replace("n_mazes: 4, n_unseen: 2", "n_mazes: 2, n_unseen: 4"))
    assert evaluate(model, "--dataset", "maze", "--config", fewer) == 2
    assert "other mazes of the same seed" in capsys.readouterr().err
    # Mazes of another seed are all unseen: no split of them is known.
    assert evaluate(model, "--dataset", "maze", "--config", fewer, "--seed", "5") == 0
    out = capsys.readouterr().out
    assert "mazes (mazes never trained on)" in out
    assert "known mazes" not in out
    (tmp_path / "run.json").write_text("[]")
    shutil.copy(model, tmp_path / "model.d3")
    assert evaluate(tmp_path / "model.d3", "--dataset", "maze") == 2
    assert "must hold the settings of a run" in capsys.readouterr().err


def test_a_device_that_is_not_there(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--env", "Pendulum-v1", "--target-return", "-200", "--device", "cuda:63"]
    assert evaluate(trained / "model.d3", *args) == 2
    assert "CUDA devices here; use cpu" in capsys.readouterr().err
