"""One offline run: training in stretches that can be resumed, then episodes, then one small file.

After each of eight stretches the algorithm is saved, optimizer and schedules included, and the
batches of the next are drawn from a seed of the run and the step. So a run that was stopped ends as
one that was not; what is lost is the stretch that it was in. After every second stretch the
checkpoint plays ten episodes; the last checkpoint and the best by these play twenty others.
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
from d3rlpy.dataset import (
    EpisodeBase,
    InfiniteBuffer,
    PartialTrajectory,
    ReplayBuffer,
    TrajectorySlicerProtocol,
)
from d3rlpy.logging import LoggerAdapter, LoggerAdapterFactory

from benchmarks.commits import own_commit
from benchmarks.offline_episodes import TARGETS, environment, evaluate
from benchmarks.offline_networks import Recipe, describe, make_config
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.cli.runs import load_algorithm, read_json, save_algorithm, write_json
from d3rlpy_spiking.datasets import d4rl_score, load_npz

STRETCHES, SCORED = 8, (2, 4, 6, 8)
CHOOSING, FINAL = (10, 1000), (20, 2000)  # episodes, and the seed of the first
_POINTS = (6, 5, 4, 3, 2, 1)  # of the curve in a stretch: the first that divides its steps


class Late(Exception):
    """The time is over; what was saved stays."""


@dataclass(frozen=True)
class Task:
    """A dataset and its environment.

    Attributes:
        buffer: the dataset.
        env: id of the environment.
        target: return to ask for.
        reward_scale: factor on rewards.
    """

    buffer: ReplayBuffer
    env: str
    target: float
    reward_scale: float

    @classmethod
    def load(cls, path: Path, context: int) -> "Task":
        """Read an archive of arrays as load_npz takes it, with env_id, and target if not MuJoCo's.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if its environment cannot be made, or it is no dataset.
        """
        env, target = environment(path)
        buffer = load_npz(path)
        if max(len(episode) for episode in buffer.episodes) <= context:
            # Else most batches would hold no episode's end, and padding in place of it.
            info = buffer.dataset_info
            buffer = ReplayBuffer(
                InfiniteBuffer(),
                episodes=buffer.episodes,
                trajectory_slicer=WholeEpisodes(buffer.trajectory_slicer),
                action_space=info.action_space,
                action_size=info.action_size,
            )
        return cls(buffer, env, target, 0.001 if env in TARGETS else 1.0)


class WholeEpisodes(TrajectorySlicerProtocol):
    """Slices that reach to their episode's end, for a context that holds it all.

    Args:
        slicer: d3rlpy's.
    """

    def __init__(self, slicer: TrajectorySlicerProtocol) -> None:
        self.slicer = slicer

    def __call__(self, episode: EpisodeBase, end_index: int, size: int) -> PartialTrajectory:
        """The whole episode, padded to that size."""
        return self.slicer(episode, episode.size() - 1, size)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        dataset: file of the dataset.
        network: one of NETWORKS.
        seed: of weights and batches.
        recipe: the rest.
    """

    dataset: Path
    network: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Name of its file and folder."""
        return f"{self.dataset.stem}/{self.network}_c{self.recipe.context}_{self.seed}"

    def result(self, out: Path) -> Path:
        """Its file; it is there when the run is done."""
        return out / f"{self.name}.json"

    def folder(self, out: Path) -> Path:
        """Its checkpoints."""
        return out / self.name

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with its start."""
        return describe(self.network, self.recipe) | {
            "dataset": self.dataset.name,
            "seed": self.seed,
        }


class _Losses(LoggerAdapter):
    """Keeps the loss of each epoch."""

    def __init__(self, curve: list[list[float]], start: int) -> None:
        self.curve, self.start = curve, start

    def write_params(self, params: dict[str, Any]) -> None:
        """Nothing."""

    def before_write_metric(self, epoch: int, step: int) -> None:
        """Nothing."""

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        """Keep the loss."""
        if name == "loss":
            self.curve.append([self.start + step, float(f"{value:.5g}")])

    def after_write_metric(self, epoch: int, step: int) -> None:
        """Nothing."""

    def save_model(self, epoch: int, algo: Any) -> None:
        """Nothing: stretches are saved."""

    def close(self) -> None:
        """Nothing."""

    def watch_model(self, epoch: int, step: int) -> None:
        """Nothing."""


class _LossesFactory(LoggerAdapterFactory):
    def __init__(self, curve: list[list[float]], start: int) -> None:
        self.curve, self.start = curve, start

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> _Losses:
        """The adapter; d3rlpy calls it."""
        return _Losses(self.curve, self.start)


class Training:
    """A run's course.

    Args:
        run: the run.
        out: where its file and folder go.
        deadline: `time.time()` after which it stops.

    Raises:
        ValueError: if the steps are no multiple of STRETCHES, or the folder holds a run with other
            settings.
    """

    def __init__(self, run: Run, out: Path, deadline: float) -> None:
        if run.recipe.steps % STRETCHES:
            raise ValueError(f"steps must be a multiple of {STRETCHES}, got {run.recipe.steps}")
        self.run, self.out, self.deadline = run, out, deadline
        self.folder = run.folder(out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "progress.json"
        self.state: dict[str, Any] = {
            "settings": run.settings(), "step": 0, "curve": [], "scored": [], "seconds": 0.0,
            "cpu_seconds": 0.0, "commits": [],
        }  # fmt: skip
        if self._file.exists():
            before = read_json(self._file)
            if before["settings"] != self.state["settings"]:
                raise ValueError(
                    f"{self.folder} holds a run with other settings, {before['settings']} and not "
                    f"{self.state['settings']}; restore them, or choose another --out"
                )
            # Files of before this was kept: the code of their steps is not known.
            self.state = {"commits": ["unknown"] if before["step"] else []} | before

    def go(self) -> None:
        """Train what is left, play, and write the file.

        Raises:
            Late: if the time is over first.
        """
        if own_commit() not in self.state["commits"]:
            self.state["commits"].append(own_commit())
        write_json(self._file, self.state)  # before training: others may commit meanwhile
        task = Task.load(self.run.dataset, self.run.recipe.context)
        with quiet_logs(), warnings.catch_warnings():
            # A stretch ends before PTBN's transition does; the run does not.
            warnings.filterwarnings("ignore", "training ends at step")
            algo = self._algorithm(task)
            while self.state["step"] < self.run.recipe.steps:
                self._stretch(algo, task)
        self._finish(algo, task)

    def _algorithm(self, task: Task) -> Any:
        if self.state["step"]:
            return load_algorithm(self._checkpoint(self.state["step"]), "cpu:0")
        seed_all(self.run.seed)
        algo = make_config(self.run.network, self.run.recipe, task.reward_scale).create("cpu:0")
        signature = task.buffer.episodes[0].observation_signature
        algo.create_impl(signature.shape[0], task.buffer.dataset_info.action_size)
        return algo

    def _stretch(self, algo: Any, task: Task) -> None:
        start, steps = self.state["step"], self.run.recipe.steps // STRETCHES
        curve: list[list[float]] = []
        seed_all(int(np.random.SeedSequence([self.run.seed, start]).generate_state(1)[0]))
        wall, cpu = time.perf_counter(), time.process_time()
        algo.fit(
            task.buffer,
            n_steps=steps,
            n_steps_per_epoch=steps // next(n for n in _POINTS if steps % n == 0),
            logger_adapter=_LossesFactory(curve, start),
            show_progress=False,
            callback=lambda *_: self._check_time(),
        )
        self.state["seconds"] += time.perf_counter() - wall
        self.state["cpu_seconds"] += time.process_time() - cpu
        self.state["curve"] += curve
        self.state["step"] = step = start + steps
        save_algorithm(algo, self._checkpoint(step))
        if step // steps in SCORED:
            returns = _play(algo, task, CHOOSING)
            self.state["scored"].append({"step": step, "returns": returns})
        write_json(self._file, self.state)  # last: it says which checkpoint counts
        kept = {entry["step"] for entry in self.state["scored"]} | {step}
        for path in self.folder.glob("model_*.d3"):
            if path not in map(self._checkpoint, kept):
                path.unlink()

    def _finish(self, algo: Any, task: Task) -> None:
        self._check_time()
        last = self.state["step"]
        best = max(self.state["scored"], key=lambda entry: float(np.mean(entry["returns"])))["step"]
        scored = {last: _play(algo, task, FINAL)}
        if best != last:
            self._check_time()
            algo = load_algorithm(self._checkpoint(best), "cpu:0")
            scored[best] = _play(algo, task, FINAL)
        network = algo.impl.modules.transformer
        write_json(
            self.run.result(self.out),
            self.state
            | {
                "env": task.env,
                "target": task.target,
                "parameters": sum(p.numel() for p in network.parameters()),
                "last": {"step": last} | summary(task.env, scored[last]),
                "best": {"step": best} | summary(task.env, scored[best]),
            },
        )
        for path in self.folder.glob("model_*.d3"):
            if path not in (self._checkpoint(last), self._checkpoint(best)):
                path.unlink()

    def _checkpoint(self, step: int) -> Path:
        return self.folder / f"model_{step}.d3"

    def _check_time(self) -> None:
        if time.time() > self.deadline:
            raise Late


def _play(algo: Any, task: Task, episodes: tuple[int, int]) -> list[float]:
    count, seed = episodes
    return [round(value, 3) for value in evaluate(algo, task.env, count, seed, task.target)]


def seed_all(seed: int) -> None:
    """Seed weights and batches."""
    d3rlpy.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # d3rlpy draws its batches from it


def summary(env: str, returns: list[float]) -> dict[str, Any]:
    """Returns with their mean, and D4RL's score of it where there is one."""
    mean = float(np.mean(returns))
    try:
        score: float | None = d4rl_score(env, mean)
    except ValueError:
        score = None
    return {"returns": returns, "mean": mean, "sd": float(np.std(returns)), "score": score}
