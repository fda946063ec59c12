"""Spiking policies for TQC: a spiking Gaussian actor beside dense quantile critics."""

from sb3_contrib.tqc.policies import Actor, Critic, TQCPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_spiking.actors import SpikingGaussianActor
from sb3_spiking.critics import SpikingCriticNetworks
from sb3_spiking.faults import CheckedInput
from sb3_spiking.mixin import DictInput, ImageInput
from sb3_spiking.sac import SpikingGaussianPolicy


class SpikingTQCActor(SpikingGaussianActor, Actor):
    """TQC's actor with a spiking network in place of the dense one."""


class CheckedTQCCritic(CheckedInput, Critic):
    """TQC's dense critic, which refuses NaN and infinite observations."""


class SpikingTQCCritic(SpikingCriticNetworks, Critic):
    """TQC's critic with spiking networks."""


class SpikingTQCPolicy(SpikingGaussianPolicy, TQCPolicy):
    """`"SpikingPopPolicy"` of TQC: population-coded spiking actor, dense quantile critics.

    Takes every keyword of TQCPolicy with its meaning, and those of SpikingOptions. `net_arch` (or
    its "pi" part) gives the hidden spiking layers; `activation_fn` applies to the critics only. The
    actor's learning rate is `actor_lr_scale` times the algorithm's.
    """

    actor_class = SpikingTQCActor
    takes_proxy = True
    actor: SpikingTQCActor

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Critic:
        """Build TQC's critic, which refuses NaN and infinite observations, or a spiking one."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        if self.options.spiking_critic:
            values = kwargs["n_quantiles"]
            return SpikingTQCCritic(spiking=self.options, values=values, **kwargs).to(self.device)
        return CheckedTQCCritic(**kwargs).to(self.device)


class SpikingTQCMultiInputPolicy(DictInput, SpikingTQCPolicy):
    """`"SpikingPopMultiInputPolicy"` of TQC: Dict observations, as MultiInputPolicy."""


class SpikingTQCCnnPolicy(ImageInput, SpikingTQCPolicy):
    """`"SpikingPopCnnPolicy"` of TQC: a dense CNN in front of the spiking actor."""
