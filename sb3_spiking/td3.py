"""Spiking policies for TD3 and DDPG: a spiking actor beside SB3's own critics."""

from typing import Any

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from sb3_spiking.actors import SpikingActor
from sb3_spiking.critics import make_continuous_critic
from sb3_spiking.event_driven import Decision
from sb3_spiking.mixin import DictInput, ImageInput, SpikingPolicyMixin


class SpikingTD3Policy(SpikingPolicyMixin, TD3Policy):
    """`"SpikingPopPolicy"` of TD3 and DDPG: population-coded spiking actor, dense critics.

    Takes every keyword of TD3Policy with its meaning, and those of SpikingOptions. `net_arch` (or
    its "pi" part) gives the hidden spiking layers; `activation_fn` applies to the critics only. The
    actor's learning rate is `actor_lr_scale` times the algorithm's.

    Source: Tang et al. 2020 (PopSAN-TD3), which is `recipe="popsan"`, the default.
    """

    takes_proxy = True

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.actor, SpikingActor)
        self.actor.scale_learning_rate()
        if self.options.proxy_target:
            assert isinstance(self.actor_target, SpikingActor)
            features, actions = self.actor.features_dim, get_action_dim(self.action_space)
            self.proxy = self.options.proxy(features, actions, squash=True).to(self.device)
            self.actor.teach(self.proxy)
            self.actor_target.ask(self.proxy)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SpikingActor:
        """Build a spiking actor; SB3 calls it for the actor and for its target."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return SpikingActor(**kwargs, **self.options.as_kwargs()).to(self.device)

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> ContinuousCritic:
        """Build SB3's critic, which refuses NaN and infinite observations, or a spiking one."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return make_continuous_critic(kwargs, self.options).to(self.device)

    def decision(self, deterministic: bool) -> Decision | None:
        """TD3 never draws; Poisson spikes where predict asks for them do."""
        actor: Any = self.actor
        if actor.mu.encoder.kind(deterministic) == "poisson":
            return None
        return Decision(actor.mu, actor.mu.decoder, actor.features_extractor, "squash")

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor._predict(observation, deterministic)


class SpikingTD3MultiInputPolicy(DictInput, SpikingTD3Policy):
    """`"SpikingPopMultiInputPolicy"` of TD3 and DDPG: Dict observations, as MultiInputPolicy."""


class SpikingTD3CnnPolicy(ImageInput, SpikingTD3Policy):
    """`"SpikingPopCnnPolicy"` of TD3 and DDPG: a dense CNN in front of the spiking actor."""
