"""`python -m d3rlpy_spiking selftest` and `pack`."""

import json
import pickle
from pathlib import Path
from typing import Any

import d3rlpy
import pytest
import torch
from d3rlpy.models import VectorEncoderFactory

from d3rlpy_spiking import DSFormerConfig, STRLConfig
from d3rlpy_spiking.cli import main
from d3rlpy_spiking.cli import selftest as command
from d3rlpy_spiking.cli.runs import load_algorithm, save_algorithm
from d3rlpy_spiking.maze import WavefrontEncoderFactory
from policies.selftest import read_manifest
from policies.selftest.manifest import FILE, checksum

MAZE = ["--env", "SpikingMaze-v0", "--target-return", "1", "--env-kwargs",
        "n_mazes:3", "n_unseen:2", "size:4", "split:mazes"]  # fmt: skip
PENDULUM = ["--env", "Pendulum-v1", "--target-return=-200"]


def strl() -> Any:
    d3rlpy.seed(0)
    algo = STRLConfig(
        context_size=3,
        max_timestep=50,
        num_layers=1,
        num_heads=2,
        encoder_factory=WavefrontEncoderFactory(feature_size=16, iterations=8),
    ).create()
    algo.create_impl((6, 4, 4), 4)
    return algo


def dsformer() -> Any:
    d3rlpy.seed(0)
    algo = DSFormerConfig(
        context_size=3,
        max_timestep=200,
        num_layers=1,
        encoder_factory=VectorEncoderFactory([16], exclude_last_activation=True),
    ).create()
    algo.create_impl((3,), 1)
    return algo


def pack(algo: Any, folder: Path, *more: str, steps: bool = True) -> int:
    save_algorithm(algo, folder / "model.d3")
    given = ["--training-seed", "3", "--steps", "7"] if steps else []
    return main(
        [
            "pack", str(folder / "model.d3"), "--name", "tiny", "--command", "python train.py",
            "--commit", "abc1234", "--to", str(folder / "trained"), "--episodes", "2",
            "--replays", "3", *given, *more,
        ]
    )  # fmt: skip


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy, in the place of the package's."""
    assert pack(strl(), tmp_path, *MAZE) == 0
    monkeypatch.setattr(command, "TRAINED", tmp_path / "trained")
    return tmp_path / "trained"


def test_a_sound_policy(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shipped,) = read_manifest(trained)
    assert (shipped.algorithm, shipped.env, shipped.file) == ("STRL", "SpikingMaze-v0", "tiny.d3")
    assert (shipped.seed, shipped.steps, shipped.target_return) == (3, 7, 1.0)
    assert shipped.env_kwargs == {"n_mazes": 3, "n_unseen": 2, "size": 4, "split": "mazes"}
    # Logits, not actions.
    assert len(shipped.openings[0][0]) == 4
    assert main(["selftest"]) == 0
    assert main(["selftest", "tiny", "--episodes", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.endswith("ok") for line in out[-2:]] == [True, True]
    assert main(["selftest", "--list"]) == 0
    assert "python train.py" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["threshold", "weights", "planner"])
def test_a_broken_policy_is_caught(
    trained: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "tiny.d3"
    if part == "threshold":
        content = pickle.loads(path.read_bytes())
        content["config"] = content["config"].replace('"v_threshold": 0.5', '"v_threshold": 0.8')
        path.write_bytes(pickle.dumps(content))
        assert load_algorithm(path, "cpu").config.v_threshold == 0.8
    else:
        algo = load_algorithm(path, "cpu")
        wanted = "planner" if part == "planner" else "up.current.linear.weight"
        found = [p for n, p in algo.impl.network.named_parameters() if wanted in n]
        assert found
        with torch.no_grad():
            for parameter in found:
                parameter *= 0.5
        save_algorithm(algo, path)
    content = json.loads((trained / FILE).read_text())
    content["policies"][0]["sha256"] = checksum(path)
    (trained / FILE).write_text(json.dumps(content))
    assert main(["selftest"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_continuous_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "TRAINED", tmp_path / "trained")
    assert pack(dsformer(), tmp_path, *PENDULUM, "--episodes", "1") == 0
    assert main(["selftest"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ok")


def test_a_packed_file_is_the_same_algorithm_without_moments(tmp_path: Path) -> None:
    algo = dsformer()
    for parameter in algo.impl.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    algo.impl.modules.optim.optim.step()
    assert algo.impl.modules.optim.optim.state
    assert pack(algo, tmp_path, *PENDULUM, "--episodes", "1") == 0
    packed = d3rlpy.load_learnable(str(tmp_path / "trained" / "tiny.d3"))
    own = packed.impl.network.state_dict()
    for name, value in algo.impl.network.state_dict().items():
        assert torch.equal(own[name], value), name
    assert not packed.impl.modules.optim.optim.state
    sizes = [(tmp_path / name).stat().st_size for name in ("trained/tiny.d3", "model.d3")]
    assert sizes[0] < 0.6 * sizes[1]


def test_seed_and_steps_are_those_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(strl(), tmp_path, *MAZE, steps=False) == 2
    assert "pass --training-seed" in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"seed": 2, "steps": 600}')
    assert pack(strl(), tmp_path, *MAZE, steps=False) == 0
    (shipped,) = read_manifest(tmp_path / "trained")
    assert (shipped.seed, shipped.steps) == (2, 600)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--name", "A b"], "a-z, 0-9 and _"),
        (["--env", "NoSuch-v0"], "--env NoSuch-v0: Environment `NoSuch` doesn't exist"),
        (["--replays", "2"], "3 replays or more"),
        (["--env-kwargs", "split"], "must be name:value"),
    ],
)
def test_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert pack(strl(), tmp_path, *MAZE, *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "trained").exists()


def test_an_unknown_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "tinny"]) == 2
    assert "no shipped policy 'tinny'; there are: tiny" in capsys.readouterr().err
