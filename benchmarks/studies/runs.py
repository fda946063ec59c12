"""Trainings of a list: one process each, which go on where they were stopped.

Each is `python -m sb3_spiking.zoo train --resume ...` with the settings of a hyperparameter file,
checkpoints and replay buffer included. A training that is done is skipped, one that another process
works on is left to it. When it is done, its last policy plays, and one small JSON file says what
came of it: settings, commit, commands, seconds, returns, counted operations.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.commits import current_commit
from benchmarks.kept import check_settings
from benchmarks.online_learning import claimed
from d3rlpy_spiking.cli.runs import write_json
from sb3_spiking.distributed.clock import RECORD
from sb3_spiking.zoo_search import read_policy_kwargs

ALGO = "td3"
CONFIG = "zoo_configs/td3.yml"
# Evaluations while it learns, their episodes, and checkpoints.
EVALUATIONS, EVALUATION_EPISODES, CHECKPOINTS = 10, 5, 5
POLL = 1.0
RECALIBRATION = "sb3_spiking.batch_norm.RecalibrationCallback"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training.

    Attributes:
        name: of the cell of the study that it belongs to.
        env: environment.
        steps: environment steps.
        seed: of the training.
        policy_kwargs: of this cell.
        inherits: whether a spiking policy takes those of the file where this cell has none.
        dense: with "MlpPolicy", and without the file's policy_kwargs.
        config: hyperparameter file of TD3, RL Zoo's form.
        callbacks: further ones of a spiking policy, as RL Zoo has them in files.
    """

    name: str
    env: str
    steps: int
    seed: int
    policy_kwargs: Mapping[str, Any]
    callbacks: Sequence[Any] = ()
    inherits: bool = True
    dense: bool = False
    config: str = CONFIG

    @property
    def label(self) -> str:
        """Cell and seed."""
        return f"{self.name}_seed{self.seed}"

    def folder(self, out: Path) -> Path:
        """Where RL Zoo logs it."""
        return out / f"{self.env}_{self.steps}" / self.label

    def result(self, out: Path) -> Path:
        """The small file that is left of it."""
        return out / "json" / f"{self.env}_{self.steps}_{self.label}.json"

    def finished(self, out: Path) -> Path | None:
        """RL Zoo's folder once the training is over."""
        record = next(self.folder(out).glob(f"{ALGO}/*/{RECORD}"), None)
        return None if record is None else record.parent

    def steps_done(self, out: Path) -> int:
        """Step of its last checkpoint."""
        found = self.folder(out).glob(f"{ALGO}/*/checkpoints/steps_*")
        return max((int(path.name.removeprefix("steps_")) for path in found), default=0)

    def entry(self) -> dict[str, Any]:
        """The file's hyperparameters.

        Raises:
            ValueError: if the file has no such environment.
        """
        entries = yaml.safe_load(Path(self.config).read_text(encoding="utf-8"))
        if self.env not in entries:
            raise ValueError(
                f"env must be in {self.config}, which has {sorted(entries)}, got {self.env!r}"
            )
        return dict(entries[self.env])

    def parameters(self) -> dict[str, Any]:
        """What goes before the file's hyperparameters.

        The replay buffer holds the whole training and no more. Learning starts where the file
        says, but after a tenth of the steps at the latest. Batch normalization has its statistics
        computed anew on the way, as everywhere in zoo_configs, beside the file's callbacks.

        Raises:
            ValueError: if the file has no such environment.
        """
        entry = self.entry()
        given: dict[str, Any] = {}
        if self.inherits and not self.dense:
            given = read_policy_kwargs(entry.get("policy_kwargs", {}))
        policy_kwargs = {**given, **self.policy_kwargs}
        return {
            "policy": "MlpPolicy" if self.dense else "SpikingPopPolicy",
            "policy_kwargs": policy_kwargs,
            "learning_starts": min(entry.get("learning_starts", 100), self.steps // 10),
            "buffer_size": self.steps,
            **({} if self.dense else self._callback(policy_kwargs, entry.get("callback"))),
        }

    def _callback(self, policy_kwargs: Mapping[str, Any], file: Any) -> dict[str, Any]:
        """The file's callbacks (a path, a dict or a list) and what goes beside them, if anything.

        Batch normalization needs its statistics recomputed.
        """
        given = file if isinstance(file, list) else [file] if file else []
        more = list(self.callbacks)
        if policy_kwargs.get("batch_norm") and not any(RECALIBRATION in one for one in given):
            more.append(RECALIBRATION)
        found = [*given, *more]
        return {"callback": found if len(found) > 1 else found[0]} if more else {}

    def settings(self) -> dict[str, Any]:
        """Everything that decides what comes of it, as JSON has it."""
        parameters = self.parameters()
        # The file may change; its steps are replaced by the command's.
        replaced = {"n_timesteps", *parameters}
        file = {name: value for name, value in self.entry().items() if name not in replaced}
        shown = {**vars(self), "parameters": parameters, "file": file, "algo": ALGO}
        for name in ("policy_kwargs", "callbacks"):  # among the parameters
            shown.pop(name)
        return dict(json.loads(json.dumps(shown)))

    def command(self, out: Path) -> list[str]:
        """The command line behind `python`."""
        folder = str(self.folder(out))
        parameters = [f"{name}:{value!r}" for name, value in self.parameters().items()]
        return [
            *("-m", "sb3_spiking.zoo", "train", "--resume", *(["--dense"] if self.dense else [])),
            *("--algo", ALGO, "--env", self.env, "--seed", str(self.seed), "-n", str(self.steps)),
            *("-conf", self.config, "--eval-freq", str(max(self.steps // EVALUATIONS, 1))),
            *("--eval-episodes", str(EVALUATION_EPISODES)),
            *("--n-eval-envs", str(EVALUATION_EPISODES)),
            *("--save-freq", str(max(self.steps // CHECKPOINTS, 1)), "--log-interval", "1"),
            *("--num-threads", "1", "--device", "cpu", "-f", folder, "-tb", f"{folder}/events"),
            *("-params", *parameters),
        ]


# (training, RL Zoo's folder) -> what is kept of it, as JSON has it.
Measure = Callable[[Training, Path], dict[str, Any]]


def work(training: Training, out: Path, measure: Measure, deadline: float) -> bool:
    """Start or go on with a training, and measure it at its end.

    Returns:
        False if it failed; what was stopped by the deadline has not.

    Raises:
        ValueError: if its folder or its result belongs to other settings.
    """
    folder = training.folder(out)
    check_result(training, out)
    with claimed(folder) as free:
        if not free or training.result(out).exists():
            return True
        _check_settings(training, folder)
        if training.finished(out) is None:
            code = _train(training, out, deadline)
            if training.finished(out) is None:
                return code is None or _failed(training, folder, code)
        begin = time.time()
        run = training.finished(out)
        assert run is not None
        found = measure(training, run)
        parts = _parts(folder)
        result = {
            "settings": training.settings(),
            "commits": sorted({part["commit"] for part in parts}) or ["not recorded"],
            "command": ["python", *training.command(out)],
            # A part that was killed has no end.
            "seconds": sum(part.get("seconds", 0.0) for part in parts),
            "measuring_seconds": time.time() - begin,
            **found,
        }
        training.result(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(training.result(out), result)
        print(f"{training.label}: return {found['mean']:.1f}", flush=True)
    return True


def check_result(training: Training, out: Path) -> None:
    """Raise if there is a result of other settings.

    Raises:
        ValueError: naming what differs.
    """
    check_settings(training.result(out), training.settings())


def _parts(folder: Path) -> list[dict[str, Any]]:
    """The stretches that it was trained in, which have a line from their start and their end."""
    path = folder / "parts.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    # The last line of a stretch replaces those before.
    return list({line["begin"]: line for line in lines}.values())


def _check_settings(training: Training, folder: Path) -> None:
    path = folder / "settings.json"
    if path.exists():
        check_settings(path, training.settings())
    else:
        write_json(path, training.settings())


def _train(training: Training, out: Path, deadline: float) -> int | None:
    """Run the process until it ends or the time is over: its exit code, or None."""
    folder, done = training.folder(out), training.steps_done(out)
    print(f"{training.label}: from {done:,} of {training.steps:,} steps", flush=True)
    begin, stopped = time.time(), False
    command = training.command(out)
    # The commit is taken before the start: others may commit meanwhile.
    part = {
        "begin": begin,
        "from": done,
        "commit": current_commit(),
        "command": ["python", *command],
    }
    _add_line(folder / "parts.jsonl", part)
    with (folder / "output.txt").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            while process.poll() is None and not stopped:
                time.sleep(POLL)
                stopped = time.time() > deadline
        finally:
            process.terminate()
            code = process.wait()
            _add_line(folder / "parts.jsonl", {**part, "seconds": time.time() - begin})
    return None if stopped else code


def _add_line(path: Path, content: object) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def _failed(training: Training, folder: Path, code: int) -> bool:
    print(f"{training.label}: exit {code}, see {folder / 'output.txt'}", file=sys.stderr)
    return False
