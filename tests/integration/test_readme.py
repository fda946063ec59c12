"""The README's code runs as printed, but for the number of steps."""

import os
import re
from pathlib import Path

from tests.common import ROOT, run_python

README = (ROOT / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        assert "10_000" in block
        run_python(
            block.replace("10_000", "130"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (tmp_path / "spiking_pendulum.zip").is_file()


def test_the_table_of_keywords_is_complete() -> None:
    from sb3_spiking.options import SpikingOptions

    table = README.split("| keyword |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (.+?) \|", table, re.MULTILINE)
    documented: dict[str, str] = {}
    for names, defaults in rows:
        keys = re.findall(r"`([a-z_]+)`", names)
        documented |= dict(zip(keys, defaults.replace("`", "").split(", "), strict=True))
    assert documented == {
        name: f'"{value}"' if isinstance(value, str) else str(value)
        for name, value in SpikingOptions().as_kwargs().items()
    }


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
    assert "TODO" not in README


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile
