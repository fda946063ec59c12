"""Spiking policy for CrossQ: a spiking Gaussian actor beside dense batch-renormalized critics."""

from sb3_contrib.crossq.policies import Actor, CrossQCritic, CrossQPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_spiking.actors import SpikingGaussianActor
from sb3_spiking.faults import CheckedInput
from sb3_spiking.mixin import ImageInput
from sb3_spiking.options import SpikingOptions
from sb3_spiking.sac import SpikingGaussianPolicy

DICT_REMEDY = (
    "CrossQ joins observations with next observations, which Dict observations do not allow: use "
    "SAC or TQC, or gymnasium.wrappers.FlattenObservation"
)


class SpikingCrossQActor(SpikingGaussianActor, Actor):
    """CrossQ's actor with a spiking network in place of the dense one and its batch norms."""


class CheckedCrossQCritic(CheckedInput, CrossQCritic):
    """CrossQ's dense critic, which refuses NaN and infinite observations."""


class SpikingCrossQPolicy(SpikingGaussianPolicy, CrossQPolicy):
    """`"SpikingPopPolicy"` of CrossQ: population-coded spiking actor, dense critics.

    Takes every keyword of CrossQPolicy with its meaning, and those of SpikingOptions. `net_arch`
    (or its "pi" part) gives the hidden spiking layers; `activation_fn` and the batch-norm keywords
    apply to the critics only: `batch_norm` is CrossQPolicy's, and the spiking actor has none. The
    actor's learning rate is `actor_lr_scale` times the algorithm's.

    Raises:
        ValueError: if `spiking_critic` is set.
    """

    dict_remedy = DICT_REMEDY
    actor_class = SpikingCrossQActor
    actor: SpikingCrossQActor

    def _check_options(self, options: SpikingOptions) -> None:
        if options.spiking_critic:
            raise ValueError(
                "CrossQ has no target network because batch renormalization in its critics takes "
                "that part, and spiking networks have none: leave spiking_critic=False, or use SAC"
            )

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> CrossQCritic:
        """Build CrossQ's critic; it refuses NaN and infinite observations."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return CheckedCrossQCritic(**kwargs).to(self.device)


class SpikingCrossQCnnPolicy(ImageInput, SpikingCrossQPolicy):
    """`"SpikingPopCnnPolicy"` of CrossQ: a dense CNN in front of the spiking actor."""
