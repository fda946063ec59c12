"""Batch normalization in the spiking actor: its statistics from the replay buffer, and refusals.

    model = TD3("SpikingPopPolicy", env, policy_kwargs={"batch_norm": True})
    model.learn(1_000_000, callback=RecalibrationCallback())

Without the callback the statistics follow each update's batch only.
"""

from typing import Any

import torch
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from policies.actor import PopulationBody
from policies.config import check_count
from policies.distributed import world_size
from policies.distributed.group import gather
from policies.recalibration import recalibrate
from sb3_spiking.options import SpikingOptions


def refuse_batch_norm(options: SpikingOptions, reason: str) -> None:
    """Raise ValueError if the options ask for batch normalization."""
    if options.batch_norm:
        raise ValueError(
            f"batch_norm=True: {reason}; leave batch_norm out, or use TD3, DDPG, SAC or TQC"
        )


class RecalibrationCallback(BaseCallback):
    """Computes an actor's batch statistics anew from the replay buffer, every so many steps.

    The statistics that acting and evaluation use are then exact for the weights of that moment and
    the observations of the buffer. Actors without batch normalization are let pass, so the callback
    may stand in files for all. Batches are drawn as for an update, by NumPy's global generator; in
    a process group each rank draws a share from its own buffer, and all see all shares.

    Args:
        every: environment steps between two times, >= 1.
        batches: mini-batches each time, >= 1.
        batch_size: observations in each, >= 1.
        verbose: as in Stable-Baselines3.

    Raises:
        ValueError: if a number is out of range; in `learn`, if the algorithm has no replay buffer.

    Source: Xu et al. 2026 (CaRe-BN): every 5,000 steps, 100 mini-batches of 256. Fewer by default:
    10,000 observations leave an error of 1 % of a deviation, far below what the next update's
    weights change.
    """

    def __init__(
        self, every: int = 5_000, batches: int = 40, batch_size: int = 256, verbose: int = 0
    ) -> None:
        super().__init__(verbose)
        check_count("every", every)
        check_count("batches", batches)
        check_count("batch_size", batch_size)
        self.every, self.batches, self.batch_size = every, batches, batch_size
        self._body: PopulationBody | None = None
        self._next = 0

    def _on_training_start(self) -> None:
        self._body = normed_body(self.model.policy)
        if self._body is not None and not isinstance(self.model, OffPolicyAlgorithm):
            raise ValueError(
                f"RecalibrationCallback takes observations from a replay buffer, and "
                f"{type(self.model).__name__} has none"
            )
        self._next = self._due()

    def _due(self) -> int:
        return (self.num_timesteps // self.every + 1) * self.every

    def _on_step(self) -> bool:
        if self._body is None or self.num_timesteps < self._next:
            return True
        self._next = self._due()
        model: Any = self.model
        buffer = model.replay_buffer
        # As SB3 before an update: HER's buffer needs a whole episode.
        if _filled(buffer) and model.num_timesteps > model.learning_starts:
            self._recalibrate(model, buffer)
        return True

    @torch.no_grad()
    def _recalibrate(self, model: Any, buffer: BaseBuffer) -> None:
        assert self._body is not None
        actor = model.actor
        batches: list[Tensor] = []
        for _ in range(-(-self.batches // world_size())):
            sample: Any = buffer.sample(self.batch_size, env=model._vec_normalize_env)
            features = actor.extract_features(sample.observations, actor.features_extractor)
            batches += gather(features).unbind()
        recalibrate(self._body, batches)


def normed_body(policy: Any) -> PopulationBody | None:
    """The spiking network with batch normalization of a policy's actor; None: there is none."""
    actor = getattr(policy, "actor", None)
    if actor is None:
        return None
    for module in actor.modules():
        if isinstance(module, PopulationBody) and module.config.batch_norm:
            return module
    return None


def _filled(buffer: Any) -> bool:
    return buffer is not None and buffer.size() > 0
