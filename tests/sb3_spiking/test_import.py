import os
import sys
from pathlib import Path

import pytest

from tests.common import ROOT, run_python


@pytest.mark.parametrize("as_package", [False, True])
def test_another_package_called_policies_is_named(tmp_path: Path, as_package: bool) -> None:
    if as_package:
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "__init__.py").touch()
    else:
        (tmp_path / "policies.py").touch()
    code = (
        f"import sys; sys.path[:0] = [r'{tmp_path}', r'{ROOT}']\n"
        "try:\n    import sb3_spiking\n"
        "except ImportError as error: print(error)"
    )
    out = run_python(code, cwd=tmp_path)
    assert str(tmp_path / "policies") in out
    assert "rename" in out


def test_a_missing_stable_baselines3_names_the_command(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, r'{ROOT}')\n"
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda n, *a: None if n == 'stable_baselines3' else find(n, *a)\n"
        "try:\n    import sb3_spiking\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install 'spiking-policies[sb3]'" in run_python(code, cwd=tmp_path)


def test_the_core_imports_no_rl_library() -> None:
    code = (
        "import policies, sys\n"
        "others = {'gymnasium', 'stable_baselines3', 'd3rlpy', 'sb3_spiking'}\n"
        "print(sorted(others & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert run_python(code, env=env).strip() == "[]"
    assert "policies" in sys.modules
