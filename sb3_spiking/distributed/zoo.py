"""RL Zoo's training on many ranks."""

import os
import re
import sys
import zipfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from policies.distributed import (
    barrier,
    broadcast_object,
    gather_objects,
    is_main,
    local_rank,
    rank,
    world_size,
)
from policies.energy.gps_up import RunRecord
from policies.energy.meter import EnergyMeter, EnergyReading
from sb3_spiking.distributed.algorithm import distribute
from sb3_spiking.distributed.callbacks import for_this_rank
from sb3_spiking.distributed.checkpoints import Checkpoints, SaveCheckpoints
from sb3_spiking.distributed.clock import RECORD
from sb3_spiking.distributed.evaluation import DistributedEvalCallback
from sb3_spiking.zoo import SpikingExperimentManager, is_spiking_name

# Without --save-freq, checkpoints in a run.
CHECKPOINTS = 10


class DistributedExperimentManager(ExperimentManager):
    """Put before RL Zoo's manager of experiments, spiking or dense: one experiment on all ranks.

    Rank 0 owns the run's folder; the others write only their monitor files, in `rank_<n>` there.
    """

    # Set from the command line before RL Zoo makes the manager.
    options: Namespace

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.optimize_hyperparameters:
            raise ValueError(
                "-optimize searches in one process; for several, start several searches with the "
                "same --storage and --study-name"
            )
        self.monitor_kwargs = dict(self.monitor_kwargs)
        self.seed, self.save_path = broadcast_object((self.seed, self.save_path))
        self._checkpoint: Path | None = None
        if self.options.resume:
            self._find_checkpoint()
        self.params_path = f"{self.save_path}/{self.env_name}"
        self.checkpoints = Checkpoints(Path(self.save_path, "checkpoints"), str(self.env_name))
        if not is_main():
            self.verbose = 0
            self.tensorboard_log = None
            self.show_progress = False

    def _find_checkpoint(self) -> None:
        """The newest run's newest checkpoint; none, and the run starts anew."""
        found = broadcast_object(self._newest_checkpoint() if is_main() else None)
        if found is None:
            print("Nothing to resume: training starts anew")
            return
        newest = self.save_path = str(found.parent.parent)
        self._checkpoint = found
        self.trained_agent = str(found / "model.zip")
        self.continue_training = True
        steps = self._steps(found)
        # Environments and exploration do not begin as at the start.
        self.seed = int(np.random.SeedSequence([self.seed, steps]).generate_state(1)[0])
        print(f"Resuming {newest} from step {steps}")

    def _newest_checkpoint(self) -> Path | None:
        """That of the environment's newest run which has one; None if that run is finished."""
        pattern = re.compile(re.escape(str(self.env_name)) + r"_(\d+)(_[0-9a-f-]{36})?")
        runs = []
        for path in Path(self.log_path).glob(f"{self.env_name}_*"):
            match = pattern.fullmatch(path.name)
            if match is not None:
                runs.append((int(match[1]), path))
        for _, path in sorted(runs, reverse=True):
            if (path / RECORD).exists():
                print(f"{path} is finished")
                return None
            # A run that ended before its first checkpoint has nothing to go on with.
            checkpoints = Checkpoints(path / "checkpoints", "")
            if checkpoints.any():
                return checkpoints.newest_whole()
        return None

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """As RL Zoo's; a run that goes on must have those that it began with.

        Raises:
            ValueError: if a dense policy is wanted and the file names a spiking one.
        """
        hyperparams, saved = super().read_hyperparameters()
        if self.options.dense and is_spiking_name(hyperparams["policy"]):
            raise ValueError(
                f"--dense trains the policy that the file names, and it names "
                f"{hyperparams['policy']!r}; choose another with -params \"policy:'MlpPolicy'\" "
                "'policy_kwargs:dict(net_arch=[256,256])', or another file with -conf"
            )
        settings = {name: repr(value) for name, value in saved.items() if name != "n_timesteps"}
        settings["--env-kwargs"] = repr(self.env_kwargs)
        for name in ("split", "amp", "dense"):
            settings[f"--{name}"] = repr(getattr(self.options, name))
        self.checkpoints.settings = settings
        if self._checkpoint is not None:
            self.checkpoints.check(self._checkpoint)
        return hyperparams, saved

    @staticmethod
    def _steps(checkpoint: Path) -> int:
        return int(checkpoint.name.removeprefix("steps_"))

    def create_log_folder(self) -> None:
        """As RL Zoo's, by rank 0."""
        if is_main():
            super().create_log_folder()  # type: ignore[no-untyped-call]  # RL Zoo's
        barrier()

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if is_main() and self._checkpoint is None:
            super()._save_config(saved_hyperparams)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As RL Zoo's; every rank writes monitor files of its own."""
        if self._checkpoint is not None:
            self.monitor_kwargs["override_existing"] = False
        run = self.save_path
        if not is_main():
            self.save_path = os.path.join(run, f"rank_{rank()}")
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            self.save_path = run

    def create_callbacks(self) -> None:
        """As RL Zoo's, with checkpoints of all ranks; frequencies are in steps of all ranks."""
        every = self.save_freq if self.save_freq > 0 else max(self.n_timesteps // CHECKPOINTS, 1)
        self.save_freq = -1
        together = self.options.eval_ranks == "all"
        if self.eval_freq > 0:
            self.eval_freq = max(self.eval_freq // world_size(), 1)
            if not (is_main() or together):
                self.eval_freq = -1
        given = list(self.callbacks)
        super().create_callbacks()  # type: ignore[no-untyped-call]  # RL Zoo's
        for callback in self.callbacks:
            # RL Zoo's own, and no class that is derived from it.
            if type(callback) is not EvalCallback or callback in given:
                continue
            if together:
                callback.__class__ = DistributedEvalCallback
            if self._checkpoint is not None:
                steps = self._steps(self._checkpoint)
                # So that evaluations are at the steps where they would be without an interruption.
                callback.n_calls = steps // (world_size() * self.n_envs)
                _remember_evaluations(callback, steps)
        self.callbacks.insert(0, SaveCheckpoints(self.checkpoints, every))

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        model = super()._load_pretrained_agent(hyperparams, env)
        if self._checkpoint is not None:
            Checkpoints.load_replay_buffer(model, self._checkpoint)
            if model.num_timesteps >= self.n_timesteps:
                raise ValueError(
                    f"-n must be more than the {model.num_timesteps} steps of the checkpoint, got "
                    f"{self.n_timesteps}; ask for more, or leave --resume out"
                )
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        """As RL Zoo's, on all ranks."""
        distribute(model, split=self.options.split, amp=self.options.amp)
        vars(model)["distribution"].resumed = self._checkpoint is not None
        # RL Zoo ends the first one itself, on every rank.
        self.callbacks = for_this_rank(self.callbacks)
        # A machine's counters count all of its processes: one of them reads.
        self._meter = EnergyMeter(enabled=self.options.energy and local_rank() == 0)
        with self._meter:
            super().learn(model)
        if not vars(model)["distribution"].finished:
            # RL Zoo would save now; the other ranks are somewhere else.
            raise KeyboardInterrupt

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """As RL Zoo's, by rank 0; then the record, which marks the run as finished."""
        readings = gather_objects(
            (self._meter.reading, self._meter.estimate) if local_rank() == 0 else None
        )
        if not is_main():
            return
        super().save_trained_model(model)
        measured, estimated = zip(*(pair for pair in readings if pair), strict=True)
        parts = vars(model)["distribution"].clock.as_dict()
        parts.pop("callbacks")  # no part of training
        RunRecord(
            steps=vars(model)["distribution"].steps_done,
            unit="environment steps",
            ranks=world_size(),
            seconds=parts.pop("total"),
            parts=parts,
            energy=_total(measured),
            estimate=_total(estimated),
            command=" ".join(sys.orig_argv),
        ).save(Path(self.save_path, RECORD))
        self.checkpoints.clear_replay_buffers()


def _total(readings: Sequence[EnergyReading]) -> EnergyReading:
    """The energy of all machines; nothing unless each has it by the same method."""
    if len(readings) == 1:
        return readings[0]
    for reading in readings:
        if reading.kwh is None or reading.method != readings[0].method:
            return EnergyReading(None, None, f"not of every machine: {reading.method}")
    total = sum(reading.kwh for reading in readings if reading.kwh is not None)
    return EnergyReading(
        total, readings[0].kind, f"{readings[0].method} on {len(readings)} machines"
    )


def _remember_evaluations(callback: EvalCallback, steps: int) -> None:
    """Go on with the evaluations that a run has written up to a step."""
    try:
        with np.load(f"{callback.log_path}.npz") as before:
            kept = before["timesteps"] <= steps
            lists = {name: before[name][kept].tolist() for name in before.files}
    except FileNotFoundError:
        return
    except (ValueError, OSError, IndexError, zipfile.BadZipFile):
        print(f"{callback.log_path}.npz is damaged; evaluations are collected anew")
        return
    callback.evaluations_timesteps = lists["timesteps"]
    callback.evaluations_results = lists["results"]
    callback.evaluations_length = lists["ep_lengths"]
    callback.evaluations_successes = lists.get("successes", [])
    if lists["results"]:
        callback.best_mean_reward = float(np.mean(lists["results"], axis=1).max())


class _SpikingManager(DistributedExperimentManager, SpikingExperimentManager):
    """With a spiking policy in place of the dense one that a file names."""


def manager_class(options: Namespace) -> type[DistributedExperimentManager]:
    """The manager for options of the command line."""
    base = DistributedExperimentManager if options.dense else _SpikingManager
    return type("ExperimentManager", (base,), {"options": options})
