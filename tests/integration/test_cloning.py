"""benchmarks.cloning on a small dataset."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.pendulum import PendulumEnv
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
    line += ["--steps", "4", "--out", out]
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
    # Pendulum's actions are in [-2, 2].
    TD3("MlpPolicy", "Pendulum-v1", buffer_size=1).save(tmp_path / "other")
    other = ["--teacher", str(tmp_path / "other.zip"), "--out", str(tmp_path / "another")]
    for wrong, message in (
        ([*other, "--env", "Pendulum-v1"], "--env must have actions in [-1, 1]"),
        ([*other, "--env", "MountainCarContinuous-v0"], "--env must be the teacher's"),
        ([*other, "--env", "NoSuch-v0"], "NoSuch"),
        (["--teacher", "x.zip", "--env", "Pendulum-v1"], "there is no model x.zip"),
        (["--dataset", "x.npz"], "there is no dataset x.npz"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
    ):
        monkeypatch.setattr(sys, "argv", ["cloning", *wrong, "--out", str(tmp_path / "another")])
        with pytest.raises(SystemExit):
            cloning.main()
        assert message in " ".join(capsys.readouterr().err.split())


def test_a_dataset_without_an_expert_is_named(dataset: Path) -> None:
    with np.load(dataset) as arrays:
        kept = {name: arrays[name] for name in arrays if name != "is_expert"}
    np.savez(dataset, allow_pickle=False, **kept)
    with pytest.raises(ValueError, match="--dataset must hold is_expert besides"):
        cloning.load(dataset, steps=1)


def test_an_observation_that_never_changes() -> None:
    obs = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    actor = cloning.Dense(obs, 1)
    assert actor(obs).isfinite().all()
    torch.testing.assert_close(actor.std, torch.tensor([2.0**0.5, 1.0]))


def test_actions_stand_for_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pendulum takes torques in [-2, 2]."""
    monkeypatch.setattr(cloning, "EPISODES", 1)
    torques: list[float] = []
    step: Any = PendulumEnv.step

    def watched(self: PendulumEnv, action: Any) -> Any:
        torques.append(float(action[0]))
        return step(self, action)

    monkeypatch.setattr(PendulumEnv, "step", watched)
    actor = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(actor.weight)
    torch.nn.init.constant_(actor.bias, -0.5)
    for scaled, expected in ((False, -0.5), (True, -1.0)):
        torques.clear()
        cloning.play(actor, "Pendulum-v1", scaled=scaled)
        assert torques == [expected] * 200
