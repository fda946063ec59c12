"""Callbacks on many ranks: which run where, and steps counted over all."""

from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    ProgressBarCallback,
)

from policies.distributed import is_main, world_size
from sb3_spiking.distributed.evaluation import DistributedEvalCallback

# What looks at a model, or saves it, that is the same on all ranks.
MAIN_ONLY = (CheckpointCallback, EvalCallback, ProgressBarCallback)


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
    if isinstance(callback, CallbackList):
        callback = callback.callbacks
    if isinstance(callback, list):
        return [kept for part in callback for kept in for_this_rank(part)]
    if not isinstance(callback, BaseCallback):
        return [ConvertCallback(callback)]
    shared = isinstance(callback, DistributedEvalCallback)
    return [] if isinstance(callback, MAIN_ONLY) and not (is_main() or shared) else [callback]
