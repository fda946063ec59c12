"""Packing a policy and checking it, with a policy that is a linear layer and no environment."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from policies.selftest import (
    Packed,
    Played,
    Shipped,
    SkippedError,
    add_to,
    check_names,
    read_manifest,
    selftest,
    show_list,
)
from policies.selftest.manifest import FILE, checksum, whole_file

KNOWN: dict[str, Any] = {
    "name": "tiny",
    "file": "some/tiny.pt",
    "algorithm": "none",
    "env": "Line-v0",
    "env_kwargs": {"length": 3},
    "target_return": None,
    "command": "python train.py",
    "seed": 0,
    "steps": 1_000,
    "commit": "abc1234",
    "arithmetic": "float32",
    "versions": "torch",
    "first_seed": 5,
}


def network() -> nn.Module:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]]))
        layer.bias.fill_(1.0)
    return layer


def run(path: Path, seeds: Iterable[int], change: Callable[[nn.Module], None] | None) -> Any:
    layer = network()
    layer.load_state_dict(torch.load(path, weights_only=True))
    if change is not None:
        change(layer)
    found = []
    for seed in seeds:
        obs = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            actions = layer(obs)
        found.append(Played(100.0 + float(actions.sum()), tuple(map(tuple, actions.tolist()))))
    return found


def play(shipped: Shipped, path: Path, seeds: Iterable[int]) -> Sequence[Played]:
    assert shipped.env_kwargs == {"length": 3}
    found: Sequence[Played] = run(path, seeds, None)
    return found


def add(folder: Path, **other: Any) -> Packed:
    return add_to(
        folder,
        lambda name: torch.save(network().state_dict(), name),
        run,
        episodes=6,
        replays=4,
        **{**KNOWN, **other},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add(tmp_path)
    return tmp_path


def test_what_was_packed_is_on_record(folder: Path) -> None:
    (shipped,) = read_manifest(folder)
    assert {name: getattr(shipped, name) for name in KNOWN} == KNOWN
    assert shipped.sha256 == checksum(folder / "some" / "tiny.pt")
    assert list(shipped.seeds()) == [5, 6, 7, 8, 9, 10]
    assert shipped.episodes == 6
    assert len(shipped.returns) == 4
    # Rounding's size shows in the returns of replays, and no more.
    spreads = [max(plays) - min(plays) for plays in zip(*shipped.returns, strict=True)]
    assert 0 < max(spreads) < 1e-3
    assert shipped.worst_share == 1.0
    assert [len(opening) for opening in shipped.openings] == [4] * 6
    text = json.loads((folder / FILE).read_text())["policies"][0]
    assert text["expected"]["mean returns that pass"][0] < text["expected"]["mean return"]


def test_a_sound_policy_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest(folder, play)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tiny")
    assert "Line-v0" in line
    assert "6 episodes" in line
    assert line.endswith("ok")


def test_fewer_episodes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest(folder, play, episodes=2)
    assert "2 episodes" in capsys.readouterr().out
    assert selftest(folder, play, episodes=99)
    assert "6 episodes" in capsys.readouterr().out


def test_another_return_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def worse(shipped: Shipped, path: Path, seeds: Iterable[int]) -> list[Played]:
        return [Played(p.total - 10.0, p.opening) for p in run(path, seeds, None)]

    assert not selftest(folder, worse)
    assert capsys.readouterr().out.endswith("FAILED: the return is outside\n")


def test_other_decisions_with_the_same_return_fail(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(shipped: Shipped, path: Path, seeds: Iterable[int]) -> list[Played]:
        return [
            Played(p.total, tuple((a + 0.1, b) for a, b in p.opening))
            for p in run(path, seeds, None)
        ]

    assert not selftest(folder, other)
    assert "FAILED: only 0% of the first decisions are as recorded" in capsys.readouterr().out


def test_a_changed_file_is_not_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(folder / "some" / "tiny.pt", "ab") as file:
        file.write(b" ")
    assert not selftest(folder, lambda *_: pytest.fail("opened"))
    assert "is not the file that was shipped" in capsys.readouterr().out
    (folder / "some" / "tiny.pt").unlink()
    with pytest.raises(ValueError, match="there is no file"):
        whole_file(folder, read_manifest(folder)[0])


def test_an_error_fails_and_the_others_are_played(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(folder, name="other", file="other.pt")

    def fail(shipped: Shipped, path: Path, seeds: Iterable[int]) -> Sequence[Played]:
        if shipped.name == "other":
            raise RuntimeError("the weights\nare gone")
        return play(shipped, path, seeds)

    assert not selftest(folder, fail)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("FAILED: RuntimeError: the weights are gone")
    assert second.endswith("ok")
    assert selftest(folder, fail, names=["tiny"])


def test_what_cannot_be_played_here_is_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def skip(shipped: Shipped, path: Path, seeds: Iterable[int]) -> Sequence[Played]:
        raise SkippedError("MuJoCo is not installed: pip install mujoco")

    assert selftest(folder, skip)
    assert "skipped: MuJoCo is not installed" in capsys.readouterr().out


def test_names(folder: Path) -> None:
    check_names(["tiny"], [folder])
    with pytest.raises(ValueError, match=r"no file .*manifest.json; install the package again"):
        check_names(["tiny"], [folder, folder / "nowhere"])
    with pytest.raises(ValueError, match="no shipped policy 'tinny'; there are: tiny"):
        check_names(["tinny"], [folder])
    lines: list[str] = []
    show_list([folder], lines.append)
    assert "python train.py" in lines[0]
    assert str(folder / "some" / "tiny.pt") in lines[0]


def test_packing_again_replaces(folder: Path) -> None:
    packed = add(folder, file="moved.pt", steps=2_000)
    assert packed.path == folder / "moved.pt"
    assert "mean return" in str(packed)
    (shipped,) = read_manifest(folder)
    assert shipped.steps == 2_000
    assert not (folder / "some" / "tiny.pt").exists()
    with pytest.raises(ValueError, match=r"tiny has the file moved.pt already"):
        add(folder, name="other", file="moved.pt")


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(*_: Any) -> Sequence[Played]:
        raise RuntimeError("no environment")

    with pytest.raises(RuntimeError, match="no environment"):
        add_to(tmp_path / "new", lambda n: Path(n).touch(), fail, episodes=1, replays=3, **KNOWN)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="3 replays or more, got 1 and 2"):
        add_to(tmp_path, lambda n: Path(n).touch(), fail, episodes=1, replays=2, **KNOWN)


@pytest.mark.parametrize("text", ["{", '{"format": 9}', '{"format": 1, "policies": [{}]}', "[]"])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        read_manifest(tmp_path)
