"""The wheel holds the packages, and imports outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.common import ROOT, run_python


def test_the_wheel_builds_and_imports_elsewhere(tmp_path: Path) -> None:
    # From a copy: setuptools leaves build folders in the tree that it builds from.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in sorted(path.parent for path in ROOT.glob("*/__init__.py")):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, source / folder.name, ignore=skip)
    shutil.copytree(ROOT / "zoo_configs", source / "zoo_configs")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path / "dist")],
        cwd=source, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        file.extractall(tmp_path / "site")
    top = {name.split("/")[0] for name in names}
    packages = {name for name in top if not name.endswith(".dist-info")}
    assert packages <= {"policies", "sb3_spiking", "d3rlpy_spiking", "zoo_configs"}
    assert packages >= {"policies", "sb3_spiking", "d3rlpy_spiking"}
    assert {f"{name}/py.typed" for name in packages - {"zoo_configs"}} <= set(names)
    assert {"sb3_spiking/contrib/tqc.py", "policies/kernels/lif.py"} <= set(names)
    assert {"zoo_configs/td3.yml", "zoo_configs/d3rlpy/dsformer.yml"} <= set(names)
    assert {
        "sb3_spiking/trained/manifest.json",
        "sb3_spiking/trained/td3/Pendulum-v1.zip",
        "d3rlpy_spiking/trained/strl_maze.d3",
    } <= set(names)
    out = run_python(
        "import policies, sb3_spiking; from stable_baselines3 import TD3\n"
        "TD3('SpikingPopPolicy', 'Pendulum-v1', buffer_size=100, learning_starts=5).learn(8)\n"
        "import d3rlpy_spiking; d3rlpy_spiking.DSFormerConfig().create().create_impl((3,), 2)\n"
        "print(policies.__file__); print(sb3_spiking.__file__); print(d3rlpy_spiking.__file__)",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    # Above them stands what d3rlpy's own import prints.
    lines = out.splitlines()[-3:]
    assert all(line.startswith(str(tmp_path / "site")) for line in lines)
