"""Spiking policies for TRPO."""

from collections.abc import Mapping
from typing import Any, ClassVar

from sb3_spiking.mixin import DictInput, ImageInput
from sb3_spiking.on_policy import SpikingActorCriticPolicy


class SpikingTRPOPolicy(SpikingActorCriticPolicy):
    """`"SpikingPopPolicy"` of TRPO: as PPO's, with other defaults.

    A trust region is void where statistics move the policy between two updates: `normalize_obs` is
    "bounds" by default. `actor_lr_scale` has no effect, since TRPO moves the actor by itself.
    """

    default_options: ClassVar[Mapping[str, Any]] = {"normalize_obs": "bounds"}


class SpikingTRPOMultiInputPolicy(DictInput, SpikingTRPOPolicy):
    """`"SpikingPopMultiInputPolicy"` of TRPO: Dict observations, as MultiInputPolicy."""


class SpikingTRPOCnnPolicy(ImageInput, SpikingTRPOPolicy):
    """`"SpikingPopCnnPolicy"` of TRPO: a dense CNN in front of the spiking actor."""
