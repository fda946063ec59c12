"""Spiking policies for TRPO."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from sb3_spiking.mixin import DictInput, ImageInput
from sb3_spiking.on_policy import SpikingActorCriticPolicy
from sb3_spiking.options import SpikingOptions


class SpikingTRPOPolicy(SpikingActorCriticPolicy):
    """`"SpikingPopPolicy"` of TRPO: as PPO's, with other defaults.

    A trust region is void where statistics move the policy between two updates: `normalize_obs` is
    "bounds" by default. `actor_lr_scale` has no effect, since TRPO moves the actor by itself. TRPO
    differentiates twice, so `kernel` is "torch".
    """

    default_options: ClassVar[Mapping[str, Any]] = {"normalize_obs": "bounds"}

    def _adapt_options(self, options: SpikingOptions) -> SpikingOptions:
        return replace(options, kernel="torch") if options.kernel == "auto" else options

    def _check_options(self, options: SpikingOptions) -> None:
        super()._check_options(options)
        if options.kernel != "torch":
            raise ValueError(
                f"TRPO differentiates the policy twice, which kernel={options.kernel!r} cannot do; "
                "leave kernel out, or set it to 'torch'"
            )
        options.refuse_penalty("TRPO takes gradients of several functions, not of one loss")


class SpikingTRPOMultiInputPolicy(DictInput, SpikingTRPOPolicy):
    """`"SpikingPopMultiInputPolicy"` of TRPO: Dict observations, as MultiInputPolicy."""


class SpikingTRPOCnnPolicy(ImageInput, SpikingTRPOPolicy):
    """`"SpikingPopCnnPolicy"` of TRPO: a dense CNN in front of the spiking actor."""
