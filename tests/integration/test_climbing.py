"""benchmarks.climbing on a short run of Pendulum."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stable_baselines3 import TD3

from benchmarks import climbing
from sb3_spiking.distributed.checkpoints import Checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "dense" / "Pendulum-v1_seed0"
    model = TD3(
        "MlpPolicy", "Pendulum-v1", seed=0, learning_starts=100, buffer_size=1_000,
        policy_kwargs={"net_arch": [32]}, device="cpu",
    )  # fmt: skip
    model.learn(400)
    checkpoints = folder / "td3" / "Pendulum-v1_1" / "checkpoints"
    Checkpoints(checkpoints, "Pendulum-v1").write(model)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climbing, "HELD_OUT", 100)
    monkeypatch.setattr(climbing, "MARKS", (2, 150))


@pytest.mark.usefixtures("small")
def test_the_critic_and_the_observations_are_the_runs(run: Path) -> None:
    hill = climbing.load(run)
    assert hill.env_id == "Pendulum-v1"
    assert hill.actions == 1
    assert hill.obs.shape == (300, 3)
    assert hill.held_out.shape == (100, 3)
    assert not any(p.requires_grad for p in hill.critic.parameters())
    # Pendulum's observations: a cosine and a sine, so the buffer's and not its unused rows.
    norm = torch.cat([hill.obs, hill.held_out])[:, :2].norm(dim=1)
    np.testing.assert_allclose(norm, 1.0, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_a_run_without_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Pendulum-v1"):
        climbing.load(tmp_path / "Pendulum-v1_seed3")


@pytest.mark.usefixtures("small")
def test_actors_climb(run: Path) -> None:
    hill = climbing.load(run)
    # A critic that wants all actions at 0.5, whatever the observation: 0 is its top.
    quadratic = SimpleNamespace(q1_forward=lambda obs, actions: -((actions - 0.5) ** 2))
    hill = hill._replace(critic=quadratic, top=0.0)
    for name in ("dense", "counting, T 10, membrane"):
        found = climbing.climb(name, 1e-3, 0, hill)
        first, last = found["below"]
        assert first < last <= 0.0, name
        assert last > -0.05, name
        assert found["at_bounds"][1] <= 0.05


@pytest.mark.usefixtures("small")
def test_the_command(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["--run", run, "--actors", "dense", "counting", "--seeds", "0", "1", "--rates", "1e-3"]
    monkeypatch.setattr(sys, "argv", ["climbing", *map(str, line), "--out", str(out)])
    climbing.main()
    printed = capsys.readouterr().out
    assert "value after 150" in printed
    assert "| counting |" in printed
    assert len(list(out.glob("*.json"))) == 4
    entry = json.loads((out / "counting_0.001_1.json").read_text())
    assert entry["options"]["neuron"] == "lif"
    assert len(entry["below"]) == 2
    assert len(entry["returns"]) == 10
    climbing.main()  # nothing is repeated
    assert "seed 0:" not in capsys.readouterr().out
    assert len(entry["commits"]) == 1
    # The run goes on: its newest checkpoint is another one.
    checkpoints = Checkpoints(run / "td3" / "Pendulum-v1_1" / "checkpoints", "Pendulum-v1")
    newest = checkpoints.newest()
    assert newest is not None
    assert entry["checkpoint"] == newest.name
    newest.rename(newest.with_name("steps_500"))
    with pytest.raises(SystemExit):
        climbing.main()
    assert "checkpoint is 'steps_500', but was 'steps_400'" in capsys.readouterr().err
