"""The support matrix: each cell trains, predicts, saves and loads; docs/algorithms.md is its log.

With WRITE_DOCS=1 in the environment the file is written, else compared.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.actor import PopulationBody
from tests.common import ROOT, run_python
from tests.sb3_spiking import matrix

CELLS = list(matrix.cells())
DOCS = ROOT / "docs" / "algorithms.md"
# What the cells have saved, for the one fresh process that loads them all.
SAVED: dict[matrix.Cell, Path] = {}

LOAD_ALL = """
import json, sys
import numpy as np
import sb3_contrib, stable_baselines3
def load(file, algorithm):
    module = stable_baselines3 if hasattr(stable_baselines3, algorithm) else sb3_contrib
    model = getattr(module, algorithm).load(file, device="cpu")
    data = dict(np.load(file + ".npz"))
    expected = data.pop("expected")
    obs = data["obs"] if "obs" in data else data
    action, _ = model.predict(obs, deterministic=True)
    return bool(np.array_equal(action, expected))
print(json.dumps({file: load(file, algorithm) for file, algorithm in json.loads(sys.argv[1])}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    SAVED.clear()
    yield tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(cell: matrix.Cell, folder: Path) -> None:
    model = matrix.build(cell)
    assert any(isinstance(module, PopulationBody) for module in model.policy.modules())
    before = {name: p.detach().clone() for name, p in matrix.acting_parameters(model).items()}
    model.learn(24 if cell.algorithm != "ARS" else 160)
    assert model._n_updates > 0
    for name, parameter in matrix.acting_parameters(model).items():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name
    obs = matrix.observations(model)
    action, _ = model.predict(obs, deterministic=True)
    file = folder / str(cell)
    model.save(file.with_suffix(".zip"))
    data = obs if isinstance(obs, dict) else {"obs": obs}
    np.savez(f"{file.with_suffix('.zip')}.npz", expected=action, **data)
    SAVED[cell] = file.with_suffix(".zip")


def test_all_load_equal_in_a_fresh_process_and_the_table_is_current() -> None:
    if len(SAVED) < len(CELLS):
        pytest.skip("needs the whole matrix: some cells were not run, or failed")
    pairs = [(str(file), cell.algorithm) for cell, file in SAVED.items()]
    code = f"import sys; sys.argv.append({json.dumps(pairs)!r})\n{LOAD_ALL}"
    equal: dict[str, bool] = json.loads(run_python(code))
    assert [str(cell) for cell, file in SAVED.items() if not equal[str(file)]] == []
    text = table()
    print(text)
    if os.environ.get("WRITE_DOCS"):
        DOCS.write_text(text)
    assert DOCS.read_text() == text, "run this test with WRITE_DOCS=1"


def table() -> str:
    """docs/algorithms.md."""
    header = [
        "# Support matrix",
        "",
        "Written by `WRITE_DOCS=1 pytest tests/sb3_spiking/test_matrix.py`, compared by every test "
        "run. Each combination of a line takes gradient steps (ARS: updates) in which every tensor "
        "of the spiking network moves, predicts, saves, and loads with equal actions in a fresh "
        "process that imports Stable-Baselines3 only.",
        "",
        "| algorithm | policy | observations | actions | cells |",
        "|---|---|---|---|---|",
    ]
    lines: list[str] = []
    for algorithm in matrix.ALGORITHMS:
        for policy, spaces in matrix.policies(algorithm).items():
            actions = matrix.action_spaces(algorithm)
            count = sum(cell[:2] == (algorithm, policy) for cell in CELLS)
            lines.append(
                f"| {algorithm} | `{policy}` | {', '.join(spaces)} | {', '.join(actions)} "
                f"| {count} |"
            )
    return "\n".join([*header, *lines, f"| all | | | | {len(CELLS)} |", "", FEATURES, ""])


def _features() -> str:
    rows = ["| feature | algorithms |", "|---|---|"]
    rows += [f"| {name} | {', '.join(algorithms)} |" for name, algorithms in FEATURE_TABLE.items()]
    return "\n".join(rows)


CONTINUOUS = ["TD3", "DDPG", "SAC", "TQC"]
FEATURE_TABLE: dict[str, list[str]] = {
    "gSDE (`use_sde=True`)": ["SAC", "TQC", "CrossQ", "PPO", "A2C", "TRPO", "RecurrentPPO"],
    "HER": [*CONTINUOUS, "DQN", "QRDQN"],
    "frame stacking": list(matrix.ALGORITHMS),
    "VecNormalize": list(matrix.ALGORITHMS),
    "`spiking_critic=True`": [*CONTINUOUS, "PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO"],
}
FEATURES = _features()


def unused(*_: Any) -> None:
    """Placeholder."""
