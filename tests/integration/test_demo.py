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
    assert len(re.findall(r"-\d+\.\d \(sd", out)) == 2  # the return before and after
    for name in ("encoder", "mlp.neurons.0", "mlp.neurons.1", "mlp.neurons.2"):
        assert re.search(rf"firing rate, {re.escape(name)}\W+0\.\d+ spikes", out), name
    assert "121,500 multiply-accumulates" in out
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))
    assert not list(tmp_path.glob("*partial*"))
    assert TD3.load(tmp_path / "model").num_timesteps == 240
