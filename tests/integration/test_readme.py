"""The README's code runs as printed, but for the number of steps."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.common import ROOT, run_module, run_python

README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        assert "10_000" in block
        block = re.sub(r"n_steps(\w*)=\d+", r"n_steps\1=2", block.replace("10_000", "400"))
        run_python(
            block,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (tmp_path / "spiking_pendulum.zip").is_file()
    assert (tmp_path / "spiking_dt.d3").is_file()
    _commands_about_models_run(tmp_path)


def _commands_about_models_run(folder: Path) -> None:
    """Reports and doctors, on the models that the blocks have saved."""
    run_python(
        "import d3rlpy_spiking, gymnasium\n"
        "from stable_baselines3 import TD3\n"
        "model = TD3.load('spiking_pendulum')\n"
        "env = gymnasium.make('Pendulum-v1')\n"
        "data = d3rlpy_spiking.datasets.collect_from_sb3(model, env, 600)\n"
        "d3rlpy_spiking.datasets.save_npz(data, 'dataset.npz')\n",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = re.findall(
        r"^python (-m (?:sb3_spiking\.|d3rlpy_spiking )(?:report|doctor) .*)$", README, re.MULTILINE
    )
    assert len(lines) == 4
    for line in lines:
        args = shlex.split(line, comments=True)
        short = ["--episodes", "2"] if any("report" in arg for arg in args) else []
        done = subprocess.run(
            [sys.executable, *args, *short], cwd=folder, capture_output=True, text=True, check=False
        )
        # The doctor's 1 is a finding: trained for two steps, a network may well have one.
        assert done.returncode in ((0,) if short else (0, 1)), done.stderr
        assert len(done.stdout.splitlines()) > 5


def test_zoo_commands_run(tmp_path: Path) -> None:
    """As printed, one after the other, but short: train, enjoy, resume, search, own file, plain."""
    lines = re.findall(
        r"^python (-m (?:sb3_spiking\.zoo|rl_zoo3\.train) .*)$", README, re.MULTILINE
    )
    assert sum("enjoy" in line for line in lines) == 1
    assert sum(" -i " in line for line in lines) == 1
    shutil.copytree(ROOT / "zoo_configs", tmp_path / "zoo_configs")
    for line in lines:
        args = shlex.split(line, comments=True)
        args = ["1" if previous == "--n-trials" else arg
                for previous, arg in zip(["", *args], args, strict=False)]  # fmt: skip
        if "enjoy" in args:
            args += ["-n", "60"]
        else:
            args += ["-n", "120", "--eval-freq", "-1"]
        if "-optimize" in args:
            args += ["--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots"]
        run_module(*args[1:], cwd=tmp_path)
    config = (tmp_path / "logs" / "td3" / "Hopper-v4_2" / "Hopper-v4" / "config.yml").read_text()
    assert "SpikingPopPolicy" in config


def test_the_table_of_keywords_is_complete() -> None:
    from sb3_spiking.options import RECIPES, SpikingOptions

    table = README.split("| keyword |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (.+?) \|", table, re.MULTILINE)
    documented: dict[str, str] = {}
    for names, defaults in rows:
        keys = re.findall(r"`([a-z_]+)`", names)
        values = defaults.replace("`", "")
        split = [values] if len(keys) == 1 else values.split(", ")
        documented |= dict(zip(keys, split, strict=True))
    assert documented.pop("recipe") == '"popsan"'
    (row,) = re.findall(r"^\| `recipe` .*", table, re.MULTILINE)
    for name, value in RECIPES["counting"].items():
        assert f"`{name}={json.dumps(value)}`" in row
    assert documented == {
        name: f'"{value}"' if isinstance(value, str) else str(value)
        for name, value in SpikingOptions().as_kwargs().items()
    }


def test_the_table_of_d3rlpy_fields_is_complete() -> None:
    from d3rlpy_spiking.options import SpikingFields

    table = README.split("| field |")[1].split("\n\n")[0]
    documented: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[a-z_`, ]+`) \| (.+?) \|", table, re.MULTILINE):
        keys = re.findall(r"`([a-z_]+)`", names)
        documented |= dict(zip(keys, defaults.replace("`", "").split(", "), strict=True))
    assert documented == {
        field.name: f'"{field.default}"' if isinstance(field.default, str) else str(field.default)
        for field in dataclasses.fields(SpikingFields)
    }


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
    assert "TODO" not in README


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
