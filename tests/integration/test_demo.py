import re
import subprocess
import sys
from pathlib import Path

from stable_baselines3 import TD3

from tests.common import ROOT


def test_the_demo_writes_and_prints_what_it_says(tmp_path: Path) -> None:
    """A short run; the whole one is `make demo`."""
    out = subprocess.run(
        [
            sys.executable, "-m", "examples.demo", "--steps", "240", "--episodes", "2",
            "--out", str(tmp_path),
        ],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search(r"before -\d+\.\d \(sd .*, after -\d+\.\d \(sd", out)
    for name in ("encoder", "mlp.linears.0", "mlp.linears.1", "mlp.linears.2"):
        assert re.search(rf"\| spiking \| body\.{re.escape(name)} \| [\d.]+ %", out), name
    # The dense actor of the same size: 3 x 400 + 400 x 300 + 300 products.
    assert "121,500" in out
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    assert not list(tmp_path.glob("*partial*"))
    assert TD3.load(tmp_path / "model").num_timesteps == 240
