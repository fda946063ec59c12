"""benchmarks.maze_learning on mazes of nine cells a side."""

import json
from pathlib import Path

import pytest

from benchmarks import maze_learning
from benchmarks.online_learning import claimed

WORDS = "--encoders flat --steps 2 --n-mazes 2 --size 9 --trajectories 4 --width 8 --walks 2"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maze_learning, "LAYERS", 1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [*WORDS.split(), "--out", str(tmp_path)]
    folder = tmp_path / "2_of_9x9"
    with claimed(folder / "dt-flat-2-0"):  # another process works on it
        maze_learning.main(line)
    assert [path.name for path in folder.glob("*.json")] == ["strl-flat-T4-v0.5-2-0.json"]
    maze_learning.main(line)
    printed = capsys.readouterr().out
    assert printed.count("| dt-flat ") == 1
    path = folder / "dt-flat-2-0.json"
    row = json.loads(path.read_text())
    assert len(row["commits"]) == 1
    before = path.stat().st_mtime_ns
    maze_learning.main(line)
    assert path.stat().st_mtime_ns == before

    for name, value in (("width", 16), ("trajectories", 5), ("maze-seed", 2), ("walks", 3)):
        with pytest.raises(SystemExit):
            maze_learning.main([*line, f"--{name}", str(value)])
        message = " ".join(capsys.readouterr().err.split())
        assert "was made with other settings" in message
        key = name.replace("-", "_")
        assert f"{key} is {value}, but was {row[key]}" in message
    # A file of before these were kept.
    path.write_text(json.dumps({name: value for name, value in row.items() if name != "width"}))
    with pytest.raises(SystemExit):
        maze_learning.main(line)
    assert "width is 8, but was 'not recorded'" in " ".join(capsys.readouterr().err.split())


def test_several_processes_share_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_turn(module: str, arguments: list[str], jobs: int) -> None:
        assert module == maze_learning.__name__
        for _ in range(jobs):
            maze_learning.main([*arguments, "--jobs", "1"])

    monkeypatch.setattr(maze_learning, "share_out", in_turn)
    maze_learning.main([*WORDS.split(), "--out", str(tmp_path), "--jobs", "2"])
    printed = capsys.readouterr().out
    assert printed.count("| dt-flat ") == 1  # the workers print no table
    assert len(list(tmp_path.glob("2_of_9x9/*.json"))) == 2
