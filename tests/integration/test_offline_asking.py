"""benchmarks.offline_asking: the same checkpoints, asked for other returns."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import offline_asking, offline_corridor, offline_summary
from benchmarks.offline_networks import Recipe
from benchmarks.offline_training import STRETCHES, Run, Training

RECIPE = Recipe(width=8, layers=1, context=20, batch=4, steps=2 * STRETCHES)


def test_what_was_asked_for_before_gives_its_result_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corridor = tmp_path / "corridor_20.npz"
    np.savez(corridor, allow_pickle=False, **offline_corridor.collect(20, 12, seed=0))
    words = f"--runs {tmp_path} --dataset {corridor} --networks dt --out {tmp_path / 'asked'}"
    with pytest.raises(FileNotFoundError, match=r"no finished run .*dt_c20_7; .*offline_runs"):
        offline_asking.main([*words.split(), "--seeds", "7"])
    Training(Run(corridor, "dt", 7, RECIPE), tmp_path, time.time() + 1e6).go()

    offline_asking.main([*words.split(), "--seeds", "7", "--asks", "1", "0.25"])
    before = json.loads((tmp_path / "corridor_20" / "dt_c20_7.json").read_text())
    kept = tmp_path / "asked" / "corridor_20"
    assert {path.name for path in kept.glob("*.json")} == {
        "dt_c20_7_1.0.json",
        "dt_c20_7_0.25.json",
    }
    again = json.loads((kept / "dt_c20_7_1.0.json").read_text())
    assert before["target"] == 1.0
    assert again["returns"] == before["last"]["returns"]
    assert again["settings"]["ask"] == 1.0
    assert len(again["commits"]) == 1
    capsys.readouterr()

    # The two that are there by default are one here; seed 8 has nothing to show.
    offline_asking.main([*words.split(), "--seeds", "7", "7", "8", "--table"])
    row = f"| dt | {again['mean']:.1f} (1) |"
    assert row in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    # In the place of what the run did; a run that was not asked is left out.
    (found,) = offline_summary.read(
        tmp_path, "last", offline_summary.Asked(tmp_path / "asked", 1.0)
    )
    assert found.table == {"dt": {"corridor_20, context 20": [again["mean"]]}}
    again["mean"] = 0.75
    (kept / "dt_c20_7_2.0.json").write_text(json.dumps(again))
    (found,) = offline_summary.read(
        tmp_path, "last", offline_summary.Asked(tmp_path / "asked", 2.0)
    )
    assert found.table == {"dt": {"corridor_20, context 20": [0.75]}}
    with pytest.raises(FileNotFoundError, match="no run below"):
        offline_summary.read(tmp_path, "last", offline_summary.Asked(tmp_path / "asked", 3.0))
    # A dataset that nothing was asked of keeps what its runs did.
    (found,) = offline_summary.read(tmp_path, "last", offline_summary.Asked(tmp_path / "none", 1.0))
    assert found.table == {"dt": {"corridor_20, context 20": [before["last"]["mean"]]}}

    with (tmp_path / "corridor_20" / "dt_c20_7" / "model_16.d3").open("ab") as file:
        file.write(b"0")  # as if it had been trained anew
    with pytest.raises(ValueError, match=r"other settings \(source is"):
        offline_asking.main([*words.split(), "--seeds", "7"])
    with pytest.raises(FileNotFoundError, match=r"there is no dataset nowhere\.npz"):
        offline_asking.main(["--dataset", "nowhere.npz"])
    for wrong, message in (
        (["--asks", "nan"], "--asks must be finite"),
        (["--networks", "main"], "--networks must be among dt, .* got .'main'"),
    ):
        with pytest.raises(ValueError, match=message):
            offline_asking.main([*words.split(), "--table", *wrong])


def test_the_network_is_asked_for_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corridor = tmp_path / "corridor_20.npz"
    arrays = offline_corridor.collect(20, 12, seed=0)
    arrays["rewards"] = 0.712345 * arrays["rewards"]  # the best return is not the target
    np.savez(corridor, allow_pickle=False, **arrays)
    Training(Run(corridor, "dt", 7, RECIPE), tmp_path, time.time() + 1e6).go()
    asked = []

    def evaluate(algo: Any, env: str, episodes: int, seed: int, target: float) -> list[float]:
        asked.append((env, episodes, seed, target))
        return [target] * episodes

    monkeypatch.setattr(offline_asking, "evaluate", evaluate)
    words = f"--runs {tmp_path} --dataset {corridor} --networks dt --seeds 7 --out {tmp_path / 'a'}"
    offline_asking.main(words.split())
    env = str(arrays["env_id"])
    assert asked == [(env, 20, 2000, 1.0), (env, 20, 2000, 0.7123)]
    offline_asking.main(words.split())  # what is done is not played again
    assert len(asked) == 2
    kept = json.loads((tmp_path / "a" / "corridor_20" / "dt_c20_7_0.7123.json").read_text())
    assert kept["mean"] == pytest.approx(0.7123, abs=1e-3)
