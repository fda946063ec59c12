"""What importing the package does, and needs."""

import os
from pathlib import Path

import pytest

from tests.common import ROOT, run_python


def test_neither_adapter_imports_the_other() -> None:
    out = run_python(
        "import sys, d3rlpy_spiking\n"
        "print({'sb3_spiking', 'stable_baselines3', 'onnx', 'matplotlib'} & set(sys.modules))"
    )
    assert out.splitlines()[-1] == "set()"


def test_a_stranger_s_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "__init__.py").write_text("")
    with pytest.raises(AssertionError, match=r"(?s)needs the package 'policies'.*rename"):
        run_python(
            "import d3rlpy_spiking",
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )


def test_without_d3rlpy_the_remedy_is_named() -> None:
    hide = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'd3rlpy' else find(name, *a)\n"
    )
    with pytest.raises(AssertionError, match=r"pip install 'spiking-policies\[d3rlpy\]'"):
        run_python(hide + "import d3rlpy_spiking")
