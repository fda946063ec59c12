"""Tables of docs/studies.md and docs/results.md are what commands print of docs/data/studies."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    climbing,
    cloning,
    energy_curve,
    finetune_online,
    maze_learning,
    offline_asking,
)
from benchmarks.studies.__main__ import main as study
from benchmarks.studies.energy_actors import ACTORS
from tests.common import ROOT

KEPT = ROOT / "docs" / "data" / "studies"
TRAINED = "dt dsformer-pssa dsformer-pssa-both dsformer-sssa dsformer-tssa"
COMMANDS: list[tuple[Callable[..., None], str, str]] = [
    (cloning.main, "cloning", ""),
    (climbing.main, "climbing", ""),
    (study, "fields", "--seeds 0"),
    (study, "arithmetic", "--seeds 0 --steps 10000"),
    (maze_learning.main, "maze", "--study"),
    (finetune_online.main, "finetune", "--networks dt dsformer-pssa-both"),
    (offline_asking.main, "asking", f"--networks {TRAINED} --asks 1500 2500 3459 5000"),
]


def cells(text: str) -> list[list[str]]:
    """The rows of all tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")] for line in lines if "---" not in line]


def number(cell: str) -> float:
    """The first of a cell."""
    return float(cell.split()[0].replace(",", ""))


@pytest.mark.parametrize(("main", "name", "words"), COMMANDS, ids=[one[1] for one in COMMANDS])
def test_what_is_kept_gives_the_tables(
    main: Callable[..., None],
    name: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = set(KEPT.rglob("*"))
    monkeypatch.chdir(ROOT)
    which = [name] if main is study else []
    line = [*which, *words.split(), "--table", "--out", str(KEPT / name)]
    monkeypatch.setattr(sys, "argv", [name, *line])
    main()
    printed = cells(capsys.readouterr().out)
    assert len(printed) > 2
    shown = cells((ROOT / "docs/studies.md").read_text("utf-8"))
    shown += cells((ROOT / "docs/results.md").read_text("utf-8"))
    assert [row for row in printed if row not in shown] == []
    assert set(KEPT.rglob("*")) == before  # nothing was trained or claimed


def test_the_energy_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    energy_curve.main(["--table", "--out", str(KEPT / "energy")])
    printed = {row[1]: row for row in cells(capsys.readouterr().out)}
    text = (ROOT / "docs/studies.md").read_text("utf-8").split("### Result\n", 1)[1]
    rows = [row for row in cells(text) if row[1] in ACTORS]
    assert len(rows) == len({path.name.rsplit("_", 1)[0] for path in KEPT.glob("energy/json/*")})
    for _, actor, mean, ratio, all_products, *_ in rows:
        there = printed[actor]
        assert number(mean) == pytest.approx(number(there[2]), abs=0.51)
        assert ratio.split()[0] == there[3].split()[0]
        assert all_products in " ".join(there)


@pytest.mark.parametrize("main", [cloning.main, climbing.main, maze_learning.main])
def test_a_table_of_nothing_is_an_error(
    main: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--table", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert "without --table" in f"{caught.value} {capsys.readouterr().err}"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="without --table"):
        finetune_online.main(["--table", "--out", str(tmp_path)])
