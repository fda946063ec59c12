"""Kill a rank of two at a random moment, again and again, and go on with --resume.

    python -m benchmarks.kill_ranks --times 10 --seed 0

Each time: the run must end within 30 seconds by itself, with a message of the rank that is left and
an exit code other than 0; every checkpoint must load; the next start must go on from the newest.
Then the run is left to finish. Linux only.
"""

import argparse
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from stable_baselines3 import TD3

import sb3_spiking  # noqa: F401  # registers the policies

LIMIT = 30.0
STEPS = 40_000
_MESSAGES = ("could not exchange data", "was told to stop")


def command(folder: Path, steps: int) -> list[str]:
    """A TD3 run on two ranks that resumes."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "sb3_spiking.distributed", "train", "--resume", "--algo", "td3",
        "--env", "Pendulum-v1", "-n", str(steps), "--eval-freq", "2000", "--save-freq", "100",
        "-f", str(folder), "--seed", "0",
        "-params", "learning_starts:300", "policy_kwargs:dict(net_arch=[64,64])",
    ]  # fmt: skip


def ranks(launcher: int) -> dict[int, int]:
    """Process ids of a launcher's ranks."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"PPid:\s*(\d+)", (entry / "status").read_text())[1])  # type: ignore[index]
            environ = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, TypeError):
            continue
        number = next((x[5:] for x in environ if x.startswith(b"RANK=")), None)
        if parent == launcher and number is not None:
            found[int(number)] = int(entry.name)
    return found


def newest(folder: Path) -> int:
    """Steps of the newest checkpoint, after loading each that is there; 0 without any."""
    steps = 0
    for path in folder.glob("td3/Pendulum-v1_*/checkpoints/steps_*"):
        model = TD3.load(path / "model.zip")
        steps = max(steps, model.num_timesteps)
        for rank in (0, 1):
            with open(path / f"rank_{rank}.pkl", "rb") as file:
                pickle.load(file)
    return steps


def kill_one(folder: Path, steps: int, draw: random.Random) -> str:
    """Start, kill a rank, and check how the other ends; a line that says how it went."""
    before = newest(folder)
    with open(folder / "output.txt", "w+") as output:
        run = subprocess.Popen(command(folder, steps), stdout=output, stderr=subprocess.STDOUT)
        wait = draw.uniform(6.0, 25.0)
        time.sleep(wait)
        while len(victims := ranks(run.pid)) < 2:  # a slow start
            assert run.poll() is None, "the run has ended by itself"
            time.sleep(0.2)
        victim = draw.choice(sorted(victims))
        os.kill(victims[victim], signal.SIGKILL)
        begin = time.perf_counter()
        code = run.wait(timeout=120)
        seconds = time.perf_counter() - begin
        output.seek(0)
        text = output.read()
    after = newest(folder)
    resumed = re.search(r"from step (\d+)", text)
    sound = (
        code != 0
        and seconds < LIMIT
        and any(message in text for message in _MESSAGES)
        and after >= before
        and (not before or (resumed is not None and int(resumed[1]) == before))
    )
    line = (
        f"rank {victim} killed after {wait:.1f} s: ended in {seconds:.1f} s with code {code}; "
        f"resumed at {before}, checkpoint at {after}: {'ok' if sound else 'FAILED'}"
    )
    if not sound:
        print(text)
    return line


def main() -> None:
    """Print a line for each time, and exit with 1 if one went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    warnings.simplefilter("ignore")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(args.times):
            lines.append(kill_one(folder, args.steps, draw))
            print(lines[-1], flush=True)
        end = subprocess.run(
            command(folder, newest(folder) + 1000), capture_output=True, text=True, timeout=600
        )
        finished = end.returncode == 0 and any(folder.glob("td3/*/distributed.json"))
        print(f"then left alone: {'finished' if finished else 'FAILED'}")
    bad = sum("FAILED" in line for line in lines)
    print(f"{len(lines) - bad} of {len(lines)} as they should be")
    sys.exit(bool(bad) or not finished)


if __name__ == "__main__":
    main()
