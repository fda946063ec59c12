"""Callbacks on many ranks: which run where, and steps counted over all."""

from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EventCallback,
    ProgressBarCallback,
)

from policies.distributed import is_main, world_size
from sb3_spiking.callbacks import SpikeMonitorCallback
from sb3_spiking.distributed.clock import Clock
from sb3_spiking.distributed.evaluation import DistributedEvalCallback

# What looks at a model, or saves it, that is the same on all ranks.
MAIN_ONLY = (CheckpointCallback, EvalCallback, ProgressBarCallback, SpikeMonitorCallback)


class Together(CallbackList):
    """Callbacks of which one may ask to end training; all ranks then end with the same rollout.

    Stable-Baselines3 leaves a rollout where a callback says so. A rank that did would be missed by
    the others, which go on to the next exchange.

    Attributes:
        stop: whether one of this rank's callbacks has asked.
    """

    def __init__(self, callbacks: list[BaseCallback], clock: Clock) -> None:
        super().__init__(callbacks)
        self.stop = False
        self._clock = clock

    def _on_step(self) -> bool:
        with self._clock.measure("callbacks"):
            self.stop = not super()._on_step() or self.stop
        return True

    def _on_rollout_start(self) -> None:
        with self._clock.measure("callbacks"):
            super()._on_rollout_start()


class GlobalSteps(BaseCallback):
    """Counts the environment steps of all ranks as the model's; goes before other callbacks."""

    def _on_step(self) -> bool:
        self.model.num_timesteps += (world_size() - 1) * self.training_env.num_envs
        return True


class AllRanksProgressBar(ProgressBarCallback):
    """Stable-Baselines3's progress bar, over the steps of all ranks."""

    def _on_step(self) -> bool:
        self.pbar.update(self.training_env.num_envs * world_size())
        return True


def for_this_rank(callback: Any) -> list[BaseCallback]:
    """The callbacks of `learn` that run on this rank; most run on all.

    Args:
        callback: None, a function, a callback or a list, as Stable-Baselines3 takes them.
    """
    if callback is None:
        return []
    if type(callback) is CallbackList:
        callback = callback.callbacks
    if isinstance(callback, list):
        return [kept for part in callback for kept in for_this_rank(part)]
    if not isinstance(callback, BaseCallback):
        return [ConvertCallback(callback)]
    if type(callback) is ProgressBarCallback:
        callback.__class__ = AllRanksProgressBar  # in place: RL Zoo closes the object it made
    if is_main() or isinstance(callback, DistributedEvalCallback):
        return [callback]
    if isinstance(callback, MAIN_ONLY):
        return []
    if isinstance(callback, EventCallback) and callback.callback is not None:
        callback.callback = CallbackList(for_this_rank(callback.callback))
        callback.callback.parent = callback
    return [callback]
