"""The support matrix: each cell trains, predicts, saves and loads; docs/algorithms.md is its log.

With WRITE_DOCS=1 in the environment the file is written, else compared.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from policies.actor import PopulationBody
from tests.common import ROOT, run_python
from tests.sb3_spiking import matrix

CELLS = list(matrix.cells())
DOCS = ROOT / "docs" / "algorithms.md"
# What the cells have saved, for the one fresh process that loads them all.
SAVED: dict[matrix.Cell, Path] = {}

HEADER = [
    "# Support matrix",
    "",
    "Written by `WRITE_DOCS=1 pytest tests/sb3_spiking/test_matrix.py` and compared by every run "
    "of the tests. Each combination of a line takes gradient steps (ARS: updates) in which every "
    "tensor of the spiking network moves, predicts, saves, and loads with equal actions in a "
    "fresh process that imports Stable-Baselines3 and sb3-contrib only.",
    "",
    "| algorithm | policy | observations | actions | cells |",
    "|---|---|---|---|---|",
]
FEATURES_HEADER = [
    "RecurrentPPO takes the names without `Lstm` too. CrossQ joins observations with next "
    "observations, so it takes no Dict; ARS takes flat observations. Box actions of any bounds "
    "and shape.",
    "",
    "Tested in the same way by `tests/sb3_spiking/test_features.py`:",
    "",
]

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    SAVED.clear()
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(cell: matrix.Cell, folder: Path) -> None:
    model = matrix.build(cell)
    assert any(isinstance(module, PopulationBody) for module in model.policy.modules())
    before = matrix.copies(matrix.acting_parameters(model))
    matrix.learn(model)
    matrix.assert_moved(matrix.acting_parameters(model), before)
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
    lines: list[str] = []
    for algorithm in matrix.ALGORITHMS:
        for policy, spaces in matrix.policies(algorithm).items():
            actions = matrix.action_spaces(algorithm)
            count = sum(cell[:2] == (algorithm, policy) for cell in CELLS)
            lines.append(
                f"| {algorithm} | `{policy}` | {', '.join(spaces)} | {', '.join(actions)} "
                f"| {count} |"
            )
    features = ["| feature | algorithms |", "|---|---|"]
    features += [f"| {name} | {', '.join(names)} |" for name, names in matrix.FEATURES.items()]
    total = f"| all | | | | {len(CELLS)} |"
    return "\n".join([*HEADER, *lines, total, "", *FEATURES_HEADER, *features, ""])
