"""Spiking and dense policies on MuJoCo, with the same file and the same budget, over seeds.

    python -m benchmarks.online_learning --minutes 170 --jobs 2

Each run is a process of its own, `python -m sb3_spiking.zoo train --resume ...`; it writes
checkpoints with its replay buffer, and starting the command again goes on where it was stopped.
Several may run at once: a run that another process works on is left to it. One that was started
with other settings is neither taken for done nor gone on with. `--list` shows what is done. Runs
are evaluated every 10,000 steps by ten deterministic episodes. The model of each checkpoint is kept
in KIND/ENV_seedSEED/stages.

    python -m benchmarks.online_learning --plain --envs HalfCheetah-v4 --steps 100000

trains `TD3("SpikingPopPolicy", env)` and `TD3("MlpPolicy", env)` without a further argument, into
runs/plain: the hyperparameter file names the policy and nothing else.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks import stages
from benchmarks.commits import current_commit
from sb3_spiking.distributed.clock import RECORD

EVAL_FREQ, EPISODES, SAVE_FREQ = 10_000, 10, 25_000
ENVS = ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4")


def _options(**options: Any) -> tuple[str, ...]:
    """PopSAN's policy with some options, whatever the file says."""
    values = {
        "net_arch": [256, 256], "matmul_backward": "bf16", "recipe": "popsan", **options
    }  # fmt: skip
    return ("-params", f"policy_kwargs:dict({','.join(f'{k}={v!r}' for k, v in values.items())})")


# Neurons whose spikes count their input.
COUNTING = {"neuron": "lif", "v_decay": 1.0, "reset_mode": "soft", "encoder_v_init": 0.5}
# What a kind of run adds to the command line; all but the first two are for the ablation.
KINDS: dict[str, tuple[str, ...]] = {
    "dense": (
        "--dense",
        *("-params", "policy:'MlpPolicy'", "policy_kwargs:dict(net_arch=[256,256])"),
    ),
    "spiking": (),
    "popsan": _options(),
    "proxy": _options(proxy_target=True, proxy_arch=[256, 256]),
    "batch_norm": (
        *_options(batch_norm=True),
        "callback:'sb3_spiking.batch_norm.RecalibrationCallback'",
    ),
    "membrane": _options(decoder="membrane"),
    "intra_layer": _options(decoder="membrane", intra_layer=True),
    "analog": _options(encoder="analog"),
    "wide_surrogate": _options(surrogate_width=3.0),
    "penalty": _options(synops_penalty=0.01),
    "counting": _options(**COUNTING),
    "counting_10": _options(**COUNTING, spike_steps=10),
    "counting_membrane": _options(**COUNTING, decoder="membrane"),
    "counting_membrane_10": _options(
        **COUNTING, decoder="membrane", spike_steps=10, actor_lr_scale=1.0
    ),
    "batch_norm_counting": (
        *_options(
            **COUNTING, decoder="membrane", spike_steps=10, actor_lr_scale=0.3, batch_norm=True
        ),
        "callback:'sb3_spiking.batch_norm.RecalibrationCallback'",
    ),
}
PLAIN = "benchmarks/plain.yml"
# Kinds that the plain file makes: it names the policy and nothing else.
PLAIN_KINDS = ("dense", "spiking")
POLL = 2.0


class Run(NamedTuple):
    """One training."""

    env: str
    kind: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where RL Zoo logs it."""
        return out / self.kind / f"{self.env}_seed{self.seed}"

    def steps(self, out: Path) -> int:
        """Step of its last evaluation."""
        return max(map(_steps, self.folder(out).glob("td3/*/evaluations.npz")), default=0)

    def end(self, out: Path) -> int | None:
        """Last step of a run that came to its horizon, and so cannot go on; None before."""
        records = self.folder(out).glob(f"td3/*/{RECORD}")
        ends = [json.loads(path.read_text("utf-8"))["steps"] for path in records]
        return max(ends, default=None)

    def settings(self, config: str) -> dict[str, Any]:
        """What decides its returns: the file's entry, and what its kind adds.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it has no such environment.
        """
        entries = yaml.safe_load(Path(config).read_text("utf-8"))
        entry = entries.get(self.env, entries.get("default"))
        if entry is None:
            raise ValueError(
                f"--envs must be in {config}, which has {', '.join(entries)}, got {self.env!r}"
            )
        added = self._added(config)
        # How far the file would go is the command's, and what the kind replaces the kind's.
        replaced = {"n_timesteps", *(word.split(":")[0] for word in added)}
        # Callbacks for spiking policies do nothing to dense ones.
        if self.kind == "dense" and str(entry.get("callback")).startswith("sb3_spiking."):
            replaced.add("callback")
        file = {name: value for name, value in entry.items() if name not in replaced}
        return dict(json.loads(json.dumps({"file": file, "kind": added})))

    def _added(self, config: str) -> list[str]:
        if config == PLAIN:
            return ["--dense"] * (self.kind == "dense")
        return list(KINDS[self.kind])

    def command(self, args: argparse.Namespace) -> list[str]:
        """The command line."""
        return [
            *("-m", "sb3_spiking.zoo", "train", "--resume", "--algo", "td3", "--env", self.env),
            *("--seed", str(self.seed), "-n", str(args.horizon), "-conf", args.config),
            *("--eval-freq", str(EVAL_FREQ), "--eval-episodes", str(EPISODES)),
            *("--n-eval-envs", str(EPISODES), "--save-freq", str(SAVE_FREQ)),
            *("--num-threads", "1", "--device", "cpu", "-f", str(self.folder(Path(args.out)))),
            *self._added(args.config),
        ]


def _steps(path: Path) -> int:
    try:
        with path.open("rb") as file, np.load(file) as data:
            return int(data["timesteps"][-1])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return 0  # it is being written


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process may work in a folder; the claim ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def has_checkpoint(folder: Path, steps: int) -> bool:
    """Whether a checkpoint of at least so many steps is there."""
    found = folder.glob("td3/*/checkpoints/steps_*")
    return any(int(path.name.removeprefix("steps_")) >= steps for path in found)


def note(run: Run, args: argparse.Namespace) -> None:
    """Write down which commit goes on from which step, and how."""
    out = Path(args.out)
    entry = {
        "from": run.steps(out),
        "commit": current_commit(),
        "command": ["python", *run.command(args)],
        "settings": run.settings(args.config),
    }
    with (run.folder(out) / "commits.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def check(run: Run, args: argparse.Namespace) -> None:
    """Raise for a run that would be taken for another one, or could never come to its steps.

    Raises:
        FileNotFoundError: if there is no hyperparameter file.
        ValueError: if it has no such environment, the run was started with other settings, or it
            ended before `--steps`.
    """
    out = Path(args.out)
    folder, settings, end = run.folder(out), run.settings(args.config), run.end(out)
    path = folder / "commits.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    # Starts of before settings were kept have none.
    before = [entry["settings"] for entry in map(json.loads, lines) if "settings" in entry]
    # A start that failed at once has trained nothing that could be mistaken.
    trained = run.steps(out) > 0 or end is not None
    if trained and before and before[-1] != settings:
        raise ValueError(
            f"{folder} holds a run with other settings, {before[-1]} and not {settings}; restore "
            "them, move it to the folder of another kind, or choose another --out"
        )
    if end is not None and end < args.steps:
        raise ValueError(
            f"{folder} holds a run that ended at its --horizon of {end:,} steps and cannot go on "
            f"to {args.steps:,}; choose fewer --steps, or another --out with a larger --horizon"
        )


def train(run: Run, args: argparse.Namespace, deadline: float) -> bool:
    """Start or go on with a run until its steps are done or the time is over.

    Returns:
        False if it failed; what was stopped has not.
    """
    out = Path(args.out)
    folder = run.folder(out)
    with claimed(folder) as free:
        # One that ended has its last evaluation before its last step.
        if not free or run.steps(out) >= args.steps or run.end(out) is not None:
            return True
        print(f"{run}: from {run.steps(out):,} steps", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        note(run, args)
        with (folder / "output.txt").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *run.command(args)], stdout=log, stderr=log, env=environment
            )
            stopped = False
            try:
                while process.poll() is None and not stopped:
                    time.sleep(POLL)
                    stages.keep(folder)
                    over = time.time() >= deadline or _enough(run, args)
                    stopped = over and process.poll() is None
            finally:
                process.terminate()
                code = process.wait()
                stages.keep(folder)
        print(f"{run}: {run.steps(out):,} steps, exit {code}", flush=True)
    if stopped or code == 0:
        return True
    print(f"{run}: failed, see {folder / 'output.txt'}", file=sys.stderr)
    return False


def _enough(run: Run, args: argparse.Namespace) -> bool:
    """Whether a run that could be continued has its steps, and a checkpoint to go on from."""
    out = Path(args.out)
    done = args.horizon > args.steps and run.steps(out) >= args.steps
    return done and has_checkpoint(run.folder(out), args.steps)


def workers(args: argparse.Namespace) -> bool:
    """Walk through the list, `--jobs` runs at a time; False if one failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that trainings end, too
    if args.jobs > 1:
        line = [sys.executable, "-m", "benchmarks.online_learning", *sys.argv[1:], "--jobs", "1"]
        processes = [subprocess.Popen(line) for _ in range(args.jobs)]
        try:
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.terminate()
        return not any(codes)
    deadline = time.time() + 60 * args.minutes
    sound = True
    for run in runs(args):
        if time.time() < deadline:
            sound &= train(run, args, deadline)
    return sound


def runs(args: argparse.Namespace) -> list[Run]:
    """Seeds first: a stopped list has all environments with the same seeds."""
    return [Run(env, kind, seed) for seed in args.seeds for env in args.envs for kind in args.kinds]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add: Any = parser.add_argument
    add("--envs", nargs="+", default=list(ENVS))
    add("--kinds", nargs="+", choices=sorted(KINDS), default=["spiking", "dense"])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--steps", type=int, default=300_000)
    add("--horizon", type=int, default=1_000_000, help="runs can be continued up to this many")
    add("--minutes", type=float, default=1e6)
    add("--jobs", type=int, default=1)
    add("--config", default="zoo_configs/td3.yml")
    add("--plain", action="store_true", help="Stable-Baselines3's own settings")
    add("--out", default="runs/online")
    add("--list", action="store_true")
    if parser.parse_args(arguments).plain:
        parser.set_defaults(config=PLAIN, out="runs/plain")
    args = parser.parse_args(arguments)
    others = sorted({*args.kinds} - {*PLAIN_KINDS})
    if args.config == PLAIN and others:
        parser.error(
            f"--kinds must be among {', '.join(PLAIN_KINDS)} with {PLAIN}, which names the policy "
            f"and nothing else, got {', '.join(others)}"
        )
    if args.steps > args.horizon:
        parser.error(
            f"--horizon must be at least --steps, {args.steps}, got {args.horizon}: it ends runs"
        )
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is asked for; 1 if a training failed."""
    args = parse(arguments)
    if args.list:
        for run in runs(args):
            print(f"{run.env} {run.kind} {run.seed}: {run.steps(Path(args.out)):,}")
        return 0
    try:
        for run in runs(args):
            check(run, args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if workers(args) else 1


if __name__ == "__main__":
    sys.exit(main())
