"""Spiking policies for MaskablePPO: logits from spikes, masked as SB3 masks them."""

from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from sb3_spiking.mixin import DictInput, ImageInput
from sb3_spiking.on_policy import SpikingActorCritic


class SpikingMaskableActorCriticPolicy(SpikingActorCritic, MaskableActorCriticPolicy):
    """`"SpikingPopPolicy"` of MaskablePPO: population-coded spiking actor, dense values.

    Takes every keyword of MaskableActorCriticPolicy with its meaning, and those of SpikingOptions.
    """

    def _number_of_values(self) -> int:
        values = super()._number_of_values()
        # sb3-contrib masks each bit as a choice of two.
        return 2 * values if isinstance(self.action_space, spaces.MultiBinary) else values


class SpikingMaskableActorCriticMultiInputPolicy(DictInput, SpikingMaskableActorCriticPolicy):
    """`"SpikingPopMultiInputPolicy"` of MaskablePPO: Dict observations, as MultiInputPolicy."""


class SpikingMaskableActorCriticCnnPolicy(ImageInput, SpikingMaskableActorCriticPolicy):
    """`"SpikingPopCnnPolicy"` of MaskablePPO: a dense CNN in front of the spiking actor."""
