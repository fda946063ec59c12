"""What a model on many ranks has beside itself: shared statistics, steps, callbacks, time."""

from typing import Any

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from policies.actor import PopulationBody
from policies.distributed import LayerAutocast, Precision, world_size
from policies.distributed.group import gather_numbers
from sb3_spiking.distributed.callbacks import Together
from sb3_spiking.distributed.clock import Clock
from sb3_spiking.distributed.rollouts import SharedLimit, SharedRollouts, smaller_buffer
from sb3_spiking.distributed.steps import SharedSteps
from sb3_spiking.distributed.vec_normalize import SharedNormalization, take_statistics

# What autocast acts on: layers with matmuls, and spiking networks as a whole.
MATMULS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase, PopulationBody)


class Distribution:
    """What a model needs to train with others.

    Args:
        model: the model, the same on all ranks.
        split: see `distribute`.
        amp: see `distribute`.
        seed: of this rank; None on rank 0, which keeps the model's.

    Attributes:
        clock: where this rank's time went.
        steps_done: environment steps of all ranks while the clock ran.
        compared: whether the ranks have been found equal after an update.
        finished: whether the last `learn` came to its end.
        resumed: whether the model goes on with a run; `learn` then counts the steps it has.
    """

    def __init__(self, model: Any, split: bool, amp: Precision | None, seed: int | None) -> None:
        self.seed = seed
        self.parts = world_size() if split else 1
        self.amp = amp
        self.clock = Clock()
        self.steps_done = 0
        self.resumed = False
        self.finished = False
        self.compared = False
        self.callbacks: Together | None = None
        self.on_policy = isinstance(model, OnPolicyAlgorithm)
        self.steps = SharedSteps(model)
        self.normalization: SharedNormalization | None = None
        self.buffer: Any = None
        if self.on_policy and self.parts > 1:
            self.buffer = smaller_buffer(model.rollout_buffer, self.parts)

    def stop(self) -> bool:
        """Whether one of this rank's callbacks wants training to end."""
        return self.callbacks is not None and self.callbacks.stop

    def begin(self, model: Any) -> None:
        """Get ready for a call of `learn`; the model may have another environment by now."""
        env = model.get_vec_normalize_env()
        take_statistics(env)
        self.normalization = None if env is None else SharedNormalization(env)
        self.steps.attach()

    def precision(self, model: Any) -> LayerAutocast:
        """The context in which the model's layers run."""
        return LayerAutocast(model.policy, self.amp, MATMULS)

    def training_attributes(self, model: Any) -> dict[str, Any]:
        """What the model's attributes are while it trains."""
        values = self.steps.idle_clipping()
        if not self.on_policy or world_size() == 1:
            return values
        normalize = bool(getattr(model, "normalize_advantage", False))
        buffer = model.rollout_buffer if self.buffer is None else self.buffer
        values["rollout_buffer"] = SharedRollouts(buffer, self.steps, normalize)
        if normalize:
            values["normalize_advantage"] = False
        if getattr(model, "target_kl", None) is not None:
            values["target_kl"] = SharedLimit(model.target_kl)
        if self.parts > 1 and hasattr(model, "batch_size"):
            values["batch_size"] = model.batch_size // self.parts
        return values

    def exchange(self, go_on: bool) -> bool:
        """End a rollout on all ranks; whether all want to go on."""
        if world_size() == 1:
            return go_on
        news = [] if self.normalization is None else self.normalization.news().tolist()
        everyone = np.array(gather_numbers([float(go_on), *news]))
        if self.normalization is not None:
            self.normalization.take(everyone[:, 1:])
        return bool(everyone[:, 0].all())
