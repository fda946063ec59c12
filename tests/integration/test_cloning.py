"""benchmarks.cloning on a small dataset."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import TD3

from benchmarks import cloning


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(400, 3)).astype(np.float32)
    actions = np.tanh(2 * obs[:, :1])
    expert = np.arange(400) < 300
    actions[~expert] = -actions[~expert]  # must not be copied
    path = tmp_path / "pendulum.npz"
    np.savez(path, observations=obs, actions=actions, is_expert=expert, env_id="Pendulum-v1")
    return path


def test_the_teacher_copies_the_expert_alone(dataset: Path) -> None:
    data, env_id = cloning.load(dataset, steps=150)
    assert env_id == "Pendulum-v1"
    assert data.obs.shape == (300, 3)
    assert data.held_out == 270
    ours, theirs = data.actions[:, 0].numpy(), np.tanh(2 * data.obs[:, 0].numpy())
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def test_errors_fall_with_training_and_a_dense_actor_is_ahead(dataset: Path) -> None:
    data, _ = cloning.load(dataset, steps=100)
    errors = {}
    for name in ("dense", "counting"):
        for steps in (2, 150):
            errors[name, steps] = cloning.fit(cloning.make(name, data), data, steps, 0)
    assert errors["dense", 150] < errors["counting", 150] < errors["counting", 2]


def test_the_command(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    line = ["--dataset", dataset, "--actors", "popsan", "counting, T 10", "--seeds", "0"]
    line += ["--steps", "4", "--out", out, "--table"]
    monkeypatch.setattr(sys, "argv", ["cloning", *map(str, line)])
    cloning.main()
    printed = capsys.readouterr().out
    assert "| counting, T 10 |" in printed
    assert "| popsan " in printed
    files = sorted(out.glob("*.json"))
    assert [path.name for path in files] == ["counting-T_10_0.json", "popsan_0.json"]
    entry = json.loads(files[0].read_text())
    assert entry["options"]["spike_steps"] == 10
    assert len(entry["returns"]) == cloning.EPISODES
    assert max(entry["returns"]) <= 0  # Pendulum's
    before = files[0].stat().st_mtime_ns
    cloning.main()  # what is done is not repeated
    assert files[0].stat().st_mtime_ns == before


def test_a_folder_holds_one_recipe(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cloning, "EPISODES", 1)
    line = ["cloning", "--dataset", str(dataset), "--seeds", "0", "--out", str(tmp_path / "out")]
    line += ["--actors", "dense", "--steps", "4"]
    monkeypatch.setattr(sys, "argv", line)
    cloning.main()
    path = tmp_path / "out" / "dense_0.json"
    entry = json.loads(path.read_text())
    assert len(entry.pop("commits")) == 1
    # As it was written before: flat, with one commit.
    path.write_text(json.dumps(entry | {"commit": "a1"}))
    cloning.main()
    assert json.loads(path.read_text())["commit"] == "a1"
    # Also for another actor, as the table would mix them.
    for other in (["--steps", "5"], ["--steps", "5", "--actors", "popsan"]):
        monkeypatch.setattr(sys, "argv", [*line, *other])
        with pytest.raises(SystemExit):
            cloning.main()
        message = " ".join(capsys.readouterr().err.split())
        assert "dense_0.json was made with other settings (steps is 5, but was 4)" in message
    del entry["dataset"]
    path.write_text(json.dumps(entry))
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit):
        cloning.main()
    assert "dataset is 'pendulum.npz', but was 'not recorded'" in capsys.readouterr().err


def test_a_trained_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = TD3("MlpPolicy", "MountainCarContinuous-v0", buffer_size=1, seed=0)
    model.save(tmp_path / "teacher")
    monkeypatch.setattr(cloning, "WATCHED", 1_500)
    monkeypatch.setattr(cloning, "EPISODES", 1)
    data = cloning.watch(tmp_path / "teacher.zip", "MountainCarContinuous-v0")
    assert data.obs.shape == (1_998, 2)  # whole episodes
    assert data.held_out == 1_798
    expected, _ = model.predict(data.obs.numpy(), deterministic=True)
    np.testing.assert_allclose(data.actions.numpy(), expected, atol=1e-6)
    line = ["cloning", "--teacher", str(tmp_path / "teacher.zip"), "--actors", "dense"]
    line += ["--env", "MountainCarContinuous-v0", "--steps", "4", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", [*line, "--out", str(tmp_path / "out")])
    cloning.main()
    entry = json.loads((tmp_path / "out" / "dense_0.json").read_text())
    assert entry["env"] == "MountainCarContinuous-v0"
    assert len(entry["teacher"]) == 64
    monkeypatch.setattr(sys, "argv", ["cloning", "--teacher", "x.zip"])
    with pytest.raises(SystemExit):
        cloning.main()
    assert "--teacher and --env go together" in capsys.readouterr().err
