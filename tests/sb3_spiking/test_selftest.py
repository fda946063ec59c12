"""`python -m sb3_spiking.selftest`: packing, playing, broken policies, pictures."""

import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from stable_baselines3 import PPO, TD3

from policies.selftest import SkippedError, read_manifest
from policies.selftest.manifest import FILE, checksum, write_manifest
from sb3_spiking.doctor import main as doctor
from sb3_spiking.selftest import __main__ as command
from sb3_spiking.selftest import folders, record
from sb3_spiking.selftest.__main__ import main
from sb3_spiking.selftest.pack import save_small
from sb3_spiking.selftest.play import open_env
from tests.common import run_module

KWARGS = {"net_arch": [32, 24]}
# A file in the repository and in every wheel: all of them together.
MOST_BYTES = 6_000_000


def make(**kwargs: Any) -> TD3:
    return TD3(
        "SpikingPopPolicy", "Pendulum-v1", seed=0, learning_starts=20,
        buffer_size=1_000, policy_kwargs={**KWARGS, **kwargs},
    )  # fmt: skip


def pack(model: Any, folder: Path, *more: str) -> int:
    model.save(folder / "model.zip")
    return main(
        [
            "pack", str(folder / "model.zip"), "--env", "Pendulum-v1", "--name", "tiny",
            "--command", "python train.py", "--commit", "abc1234", "--to", str(folder / "trained"),
            "--episodes", "2", "--replays", "3", *more,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def learned() -> TD3:
    return make().learn(60)


@pytest.fixture
def trained(learned: TD3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy, in the place of the package's."""
    assert pack(learned, tmp_path) == 0
    folder = tmp_path / "trained"
    monkeypatch.setattr(command, "OWN", folder)
    monkeypatch.setattr(command, "all_folders", lambda: [folder])
    monkeypatch.setattr(command, "other_folder", lambda: None)
    monkeypatch.setattr(record, "OWN", folder)
    return folder


def replace(folder: Path, model: Any) -> None:
    """Ship another model as if it were the one on record."""
    (shipped,) = read_manifest(folder)
    save_small(model, str(folder / shipped.file))
    content = json.loads((folder / FILE).read_text())
    content["policies"][0]["sha256"] = checksum(folder / shipped.file)
    (folder / FILE).write_text(json.dumps(content))


def test_a_sound_policy(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shipped,) = read_manifest(trained)
    # Where RL Zoo's enjoy looks for it.
    assert shipped.file == "td3/Pendulum-v1.zip"
    assert (shipped.algorithm, shipped.seed, shipped.steps) == ("TD3", 0, 60)
    assert shipped.arithmetic == "matmul 'exact'"
    assert main([]) == 0
    assert main(["tiny", "--episodes", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.endswith("ok") for line in out[-2:]] == [True, True]
    assert "1 episodes" in out[-1]
    assert main(["--list"]) == 0
    assert "python train.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fault",
    [{"v_decay": 0.5}, {"neuron": "lif"}, {"v_threshold": 0.7}, {"spike_steps": 3}],
)
def test_other_neurons_are_caught(
    trained: Path, fault: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "td3" / "Pendulum-v1.zip"
    replace(trained, TD3.load(path))
    assert main([]) == 0
    model = TD3.load(path, custom_objects={"policy_kwargs": {**KWARGS, **fault}})
    replace(trained, model)
    assert main([]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["normalizer", "encoder", "dead", "signs"])
def test_other_numbers_are_caught(trained: Path, part: str) -> None:
    model: Any = TD3.load(trained / "td3" / "Pendulum-v1.zip")
    with torch.no_grad():
        if part == "normalizer":
            buffers = [b for n, b in model.actor.named_buffers() if "mean" in n]
            assert buffers
            for buffer in buffers:
                buffer += 0.5
        elif part == "encoder":
            model.actor.mu.encoder.std *= 1.5
        elif part == "dead":
            model.actor.mu.mlp.linears[1].bias -= 30.0
        else:
            model.actor.mu.mlp.linears[0].weight *= -1.0
    replace(trained, model)
    assert main([]) == 1


def test_a_damaged_file_is_not_opened(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / "td3" / "Pendulum-v1.zip"
    path.write_bytes(path.read_bytes()[:-1])
    assert main([]) == 1
    assert "not the file that was shipped" in capsys.readouterr().out


def test_a_small_file_is_the_same_model(learned: TD3, tmp_path: Path) -> None:
    learned.save(tmp_path / "whole.zip")
    save_small(TD3.load(tmp_path / "whole.zip"), str(tmp_path / "small.zip"))
    small = TD3.load(tmp_path / "small.zip", env=gym.make("Pendulum-v1"))
    assert (tmp_path / "small.zip").stat().st_size < (tmp_path / "whole.zip").stat().st_size / 3
    for name in ("actor", "critic"):
        own = getattr(small.policy, name).state_dict()
        for key, value in getattr(learned.policy, name).state_dict().items():
            assert torch.equal(own[key], value), key
        target = getattr(small.policy, f"{name}_target").state_dict()
        for key, parameter in getattr(small.policy, name).named_parameters():
            assert torch.equal(target[key], parameter), key
            assert target[key].data_ptr() != parameter.data_ptr()
    # It goes on learning.
    small.learn(30)
    # Nothing of the machine that trained it.
    with zipfile.ZipFile(tmp_path / "small.zip") as file:
        data = json.loads(file.read("data"))
    assert not {"_last_obs", "ep_info_buffer", "tensorboard_log"} & set(data)


def test_without_critics_it_acts_and_cannot_train(learned: TD3, tmp_path: Path) -> None:
    learned.save(tmp_path / "whole.zip")
    save_small(TD3.load(tmp_path / "whole.zip"), str(tmp_path / "small.zip"), actor_only=True)
    small = TD3.load(tmp_path / "small.zip", env=gym.make("Pendulum-v1"))
    obs = np.array([[1.0, 0.0, 0.5], [-1.0, 0.1, 3.0]], np.float32)
    assert np.array_equal(small.predict(obs, deterministic=True)[0], learned.predict(obs, deterministic=True)[0])  # fmt: skip  # noqa: E501
    with pytest.raises(ValueError, match="NaN"):
        small.learn(60)


def test_an_on_policy_model(tmp_path: Path) -> None:
    model = PPO("SpikingPopPolicy", "Pendulum-v1", n_steps=32, batch_size=16, policy_kwargs=KWARGS)
    assert pack(model.learn(32), tmp_path) == 0
    (shipped,) = read_manifest(tmp_path / "trained")
    assert (shipped.file, shipped.seed) == ("ppo/Pendulum-v1.zip", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no shipped policy 'nothing'; there are: tiny"),
        (["--episodes", "0"], "must be an integer from 1"),
        (["pack", "missing.zip", "--name", "a", "--command", "c"], "missing.zip"),
        (["pack", "dense.zip", "--env", "Pendulum-v1", "--name", "a", "--command", "c"], "dense"),
        (["pack", "dense.zip", "--name", "A b", "--command", "c"], "a-z, 0-9 and _"),
        (["record", "tiny", "--out", "a.mp4"], "must end in .gif"),
        (["record", "nothing", "--out", "a.gif"], "NAME must be one of tiny"),
        (["record", "nothing.zip", "--out", "a.gif"], "nothing.zip"),
        (["record", "tiny", "--out", "a.gif", "--seed", "-1"], "must be an integer from 0"),
        (["record", "tiny", "--out", "nowhere/a.gif"], "there is no folder nowhere"),
    ],
)
def test_usage_errors(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    TD3("MlpPolicy", "Pendulum-v1", buffer_size=10).save("dense.zip")
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_too_few_replays(learned: TD3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(learned, tmp_path, "--replays", "2") == 2
    assert "3 replays or more" in capsys.readouterr().err
    assert not (tmp_path / "trained").exists()


def test_a_missing_environment_is_skipped(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SkippedError, match="NoSuch"):
        open_env("NoSuch-v0", {})
    (shipped,) = read_manifest(trained)
    fields = {**vars(shipped), "env": "NoSuch-v0"}
    write_manifest(trained, [type(shipped)(**fields)])
    assert main([]) == 0
    assert "skipped: Environment `NoSuch` doesn't exist" in capsys.readouterr().out


class Drawn(gym.Wrapper[Any, Any, Any, Any]):
    """Draws without pygame."""

    render_mode = "rgb_array"

    def render(self) -> Any:
        picture = np.zeros((40, 80, 3), np.uint8)
        picture[:, : 1 + int(10 * abs(self.unwrapped.state[0]))] = 200  # type: ignore[attr-defined]
        return picture


def test_a_picture(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def drawn(name: str, kwargs: dict[str, Any]) -> Any:
        assert kwargs == {"render_mode": "rgb_array"}
        return Drawn(open_env(name, {}))

    monkeypatch.setattr(record, "open_env", drawn)
    out = tmp_path / "tiny.gif"
    options = ["--steps", "20", "--every", "5", "--width", "40"]
    assert main(["record", "tiny", "--out", str(out), *options]) == 0
    assert "5 frames" in capsys.readouterr().out
    with Image.open(out) as gif:
        assert gif.size == (40, 20)
        assert 2 <= gif.n_frames <= 5  # the same twice is one
        assert gif.info["duration"] % 10 == 0
    assert [path.name for path in tmp_path.glob("*.gif")] == ["tiny.gif"]


@pytest.mark.parametrize(("steps", "told"), [(20, "goes on"), (300, "in 200 steps")])
def test_a_picture_of_a_file(
    learned: TD3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: int,
    told: str,
) -> None:
    learned.save(tmp_path / "model")
    gym.register("Drawn-v0", lambda **_: Drawn(gym.make("Pendulum-v1")))
    try:
        out = str(tmp_path / "model.gif")
        options = ["--env", "Drawn-v0", "--steps", str(steps), "--every", "10", "--width", "40"]
        assert main(["record", str(tmp_path / "model.zip"), "--out", out, *options]) == 0
    finally:
        del gym.registry["Drawn-v0"]
    said = capsys.readouterr().out
    assert told in said
    assert f"{min(steps, 199) // 10 + 1} frames" in said


def test_a_lost_manifest_is_no_success(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / FILE).unlink()
    for arguments in ([], ["--list"], ["tiny"]):
        assert main(arguments) == 2
        assert "manifest.json; install the package again" in capsys.readouterr().err


def test_an_environment_that_cannot_draw(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken(Drawn):
        def render(self) -> Any:
            raise AttributeError("no attribute glGetError")

    monkeypatch.setattr(record, "open_env", lambda name, _: Broken(open_env(name, {})))
    assert main(["record", "tiny", "--out", str(tmp_path / "a.gif")]) == 2
    err = capsys.readouterr().err
    assert "cannot draw here (AttributeError: no attribute glGetError)" in err
    assert "MUJOCO_GL=egl" in err
    assert not (tmp_path / "a.gif").exists()


def test_the_other_adapter_is_found_without_importing_it() -> None:
    other = folders.other_folder()
    assert other is not None
    assert other.parent.name == "d3rlpy_spiking"


def test_what_is_shipped_is_whole() -> None:
    """Every file is on record, and every record has its file."""
    total = 0
    names: list[str] = []
    for folder in folders.all_folders():
        shipped = read_manifest(folder)
        assert shipped
        names += [entry.name for entry in shipped]
        for entry in shipped:
            path = folder / entry.file
            assert checksum(path) == entry.sha256
            assert entry.command.startswith("python -m ")
            assert entry.commit
            assert len(entry.openings) == entry.episodes
            assert entry.band().low < entry.band().mean < entry.band().high
            total += path.stat().st_size
        files = {p for p in folder.rglob("*") if p.is_file() and p.suffix in {".zip", ".d3"}}
        assert files == {folder / entry.file for entry in shipped}
    assert len(set(names)) == len(names)
    assert total < MOST_BYTES
    assert {"pendulum_td3", "strl_maze"} <= set(names)


def test_a_shipped_model_is_sb3s() -> None:
    """Stock Stable-Baselines3 opens it, and the doctor finds nothing."""
    shipped = {entry.name: entry for entry in read_manifest(folders.OWN)}["pendulum_td3"]
    path = folders.OWN / shipped.file
    model = TD3.load(path, buffer_size=1)
    action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    assert action.shape == (1,)
    assert doctor([str(path), "--env", shipped.env, "--steps", "200"]) == 0


@pytest.mark.slow
def test_all_that_is_shipped_plays_as_it_did(tmp_path: Path) -> None:
    out = run_module("sb3_spiking.selftest", cwd=tmp_path)
    assert "FAILED" not in out
    for folder in folders.all_folders():
        for entry in read_manifest(folder):
            assert entry.name in out
