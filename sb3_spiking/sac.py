"""Spiking policies for SAC: a spiking Gaussian actor beside SB3's own critics."""

from typing import Any, ClassVar

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import SACPolicy

from sb3_spiking.actors import SpikingGaussianActor, SpikingSACActor
from sb3_spiking.critics import make_continuous_critic
from sb3_spiking.event_driven import Decision
from sb3_spiking.faults import all_finite
from sb3_spiking.mixin import DictInput, ImageInput, SpikingPolicyMixin


class SpikingGaussianPolicy(SpikingPolicyMixin):
    """Put before the policy class of SAC, TQC or CrossQ: builds the spiking actor."""

    actor_class: ClassVar[type[SpikingGaussianActor]]
    actor: Any

    def _build(self, lr_schedule: Schedule) -> None:
        dense: Any = super()
        dense._build(lr_schedule)
        self.actor.scale_learning_rate()
        if self.options.proxy_target:
            policy: Any = self
            features, actions = self.actor.features_dim, get_action_dim(policy.action_space)
            # mean and logarithm of the deviation of each action
            proxy = self.options.proxy(features, 2 * actions, squash=False)
            self.proxy = proxy.to(policy.device)
            self.actor.teach(self.proxy)

    def decision(self, deterministic: bool) -> Decision | None:
        """The mean, squashed; gSDE may clip it, so it is left to the batched network."""
        actor = self.actor
        if not deterministic or actor.use_sde:
            return None
        if not all(map(all_finite, actor.log_std.parameters())):
            return None  # the batched network names what is broken, though it does not draw here
        return Decision(actor.latent_pi, actor.mu, actor.features_extractor, "squash")

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build the spiking actor."""
        policy: Any = self
        kwargs = policy._update_features_extractor(policy.actor_kwargs, features_extractor)
        # names of both are the dense actor's
        actor: Any = self.actor_class(**{**self.options.as_kwargs(), **kwargs})
        return actor.to(policy.device)


class SpikingSACPolicy(SpikingGaussianPolicy, SACPolicy):
    """`"SpikingPopPolicy"` of SAC: population-coded spiking actor, dense critics.

    Takes every keyword of SACPolicy with its meaning, and those of SpikingOptions. `net_arch` (or
    its "pi" part) gives the hidden spiking layers; `activation_fn` applies to the critics only. The
    actor's learning rate is `actor_lr_scale` times the algorithm's; the entropy coefficient keeps
    the algorithm's.

    Source: Tang et al. 2020 (PopSAN-SAC). Differs: the deviation is read from spikes too.
    """

    actor_class = SpikingSACActor
    takes_proxy = True
    actor: SpikingSACActor

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> ContinuousCritic:
        """Build SB3's critic, which refuses NaN and infinite observations, or a spiking one."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return make_continuous_critic(kwargs, self.options).to(self.device)


class SpikingSACMultiInputPolicy(DictInput, SpikingSACPolicy):
    """`"SpikingPopMultiInputPolicy"` of SAC: Dict observations, as MultiInputPolicy."""


class SpikingSACCnnPolicy(ImageInput, SpikingSACPolicy):
    """`"SpikingPopCnnPolicy"` of SAC: a dense CNN in front of the spiking actor."""
