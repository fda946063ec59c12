"""The population-coded spiking actor behind Stable-Baselines3's actor interfaces."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor
from torch import Tensor, nn

from policies.actor import PopulationActor, PopulationBody
from policies.population import PopulationReadout
from sb3_spiking.faults import CheckedInput, check_finite_output
from sb3_spiking.learning_rate import ScaledOptimizer
from sb3_spiking.options import SpikingOptions
from sb3_spiking.proxy import ProxiedActor, answer


class SpikingActor(ProxiedActor, CheckedInput, ScaledOptimizer, Actor):
    """TD3's actor with a spiking network in place of the dense one.

    In training mode (SB3 leaves it on after `learn`) each call moves the normalizer's statistics,
    as batch normalization does; `predict` switches to evaluation mode first.

    Args:
        observation_space: observation space.
        action_space: action space.
        net_arch: neurons of each hidden spiking layer; may be empty.
        features_extractor: maps observations to features [B, features_dim].
        features_dim: number of features.
        activation_fn: kept for SB3's interface; spiking layers have no activation function.
        normalize_images: whether SB3 divides images by 255.
        **spiking: see SpikingOptions.
    """

    mu: PopulationActor  # type: ignore[assignment]  # SB3's is an nn.Sequential with the same call

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: nn.Module,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        **spiking: Any,
    ) -> None:
        # net_arch=[]: the dense network that SB3 builds here is replaced at once.
        super().__init__(
            observation_space,
            action_space,
            [],
            features_extractor,
            features_dim,
            activation_fn,
            normalize_images,
        )
        self.net_arch = net_arch
        self.options = SpikingOptions(**spiking)
        action_dim = get_action_dim(self.action_space)
        self.mu = PopulationActor(features_dim, action_dim, self.options.actor_config(net_arch))
        self.options.fix_bounds(self.mu, observation_space, features_extractor)

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Actions [B, action_dim]; a target's by its proxy, if it has one."""
        features = self.extract_features(obs, self.features_extractor)
        if self._asked:
            return answer(self._asked, self.mu, features)
        actions: Tensor = self.mu(features)
        self._teach(self.mu, features, actions)
        return actions

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.options.as_kwargs()}

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        features = self.extract_features(observation, self.features_extractor)
        return self.mu(features, deterministic)  # type: ignore[no-any-return]  # nn.Module calls are Any


class SpikingGaussianActor(ProxiedActor, CheckedInput, ScaledOptimizer):
    """Put before the actor class of SAC, TQC or CrossQ: the Gaussian's parameters from spikes.

    `latent_pi` maps features to the activity of the output populations [B, action_dim * P], `mu`
    reads the mean from it, each action from its own population, and `log_std` the logarithm of the
    standard deviation, each action from all populations; with gSDE the activity is what the noise
    depends on. PopSAN reads the deviation from a dense network beside the spiking one.

    Args:
        net_arch: neurons of each hidden spiking layer; may be empty.
        **kwargs: as in the dense actor class and in SpikingOptions.
    """

    _for_targets = False

    def __init__(self, *, net_arch: list[int], **kwargs: Any) -> None:
        dense: Any = super()
        self.options, dense_kwargs = SpikingOptions.take_from(kwargs, dense.__init__)
        # net_arch=[]: the dense network that SB3 builds here is replaced at once.
        dense.__init__(net_arch=[], **dense_kwargs)
        self.net_arch = net_arch
        actor: Any = self  # the dense class's attributes are known at run time only
        config = self.options.actor_config(net_arch, squash=False)
        action_dim = get_action_dim(actor.action_space)
        actor.latent_pi = PopulationBody(actor.features_dim, action_dim, config)
        space, extractor = actor.observation_space, actor.features_extractor
        self.options.fix_bounds(actor.latent_pi, space, extractor)
        readout = PopulationReadout(action_dim, config.spike_steps, config.decoder, config.matmul)
        size = action_dim * config.decoder.pop_size
        if actor.use_sde:
            if self.options.proxy_target:
                raise ValueError(
                    "proxy_target=True with use_sde=True: gSDE's noise depends on the spiking "
                    "activity, which a proxy does not copy; use one of the two"
                )
            _, actor.log_std = actor.action_dist.proba_distribution_net(
                latent_dim=size, latent_sde_dim=size, log_std_init=actor.log_std_init
            )
            limit = actor.clip_mean
            actor.mu = nn.Sequential(readout, nn.Hardtanh(-limit, limit)) if limit > 0 else readout
        else:
            actor.log_std = nn.Linear(size, action_dim)
            actor.mu = readout

    def get_action_dist_params(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Mean, log std and gSDE's latent of observations; `deterministic`: no Poisson draws."""
        actor: Any = self
        features = actor.extract_features(obs, actor.features_extractor)
        if self._for_targets:
            mean, log_std = answer(self._taught, actor.latent_pi, features).chunk(2, dim=1)
            return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), {}
        activity = actor.latent_pi(features, deterministic)
        if actor.use_sde:
            mean, log_std = actor.mu(activity), actor.log_std
            check_finite_output(actor, activity, mean, log_std)
            return mean, log_std, {"latent_sde": activity}
        mean, log_std = actor.mu(activity), actor.log_std(activity)
        # Before the clamp and SB3's tanh, which would turn infinity into an ordinary number.
        check_finite_output(actor, mean, log_std)
        self._teach(actor.latent_pi, features, mean, log_std)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), {}

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Actions [B, action_dim] and their log probabilities [B]; a target's by the proxy.

        SAC and TQC have no target actor: targets are what training asks for without gradients.
        """
        dense: Any = super()
        actor: Any = self
        self._for_targets = bool(self._taught) and actor.training and not torch.is_grad_enabled()
        try:
            return dense.action_log_prob(obs)  # type: ignore[no-any-return]  # SB3's
        finally:
            self._for_targets = False

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Squashed actions [B, action_dim]."""
        actor: Any = self
        mean, log_std, kwargs = self.get_action_dist_params(obs, deterministic)
        action: Tensor = actor.action_dist.actions_from_params(
            mean, log_std, deterministic=deterministic, **kwargs
        )
        return action

    def _get_constructor_parameters(self) -> dict[str, Any]:
        dense: Any = super()
        return {**self.options.as_kwargs(), **dense._get_constructor_parameters()}


class SpikingSACActor(SpikingGaussianActor, SACActor):
    """SAC's actor with a spiking network in place of the dense one."""
