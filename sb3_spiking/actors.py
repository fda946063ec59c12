"""The population-coded spiking actor behind Stable-Baselines3's actor interfaces."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.td3.policies import Actor
from torch import Tensor, nn
from torch.optim import Optimizer

from policies.actor import PopulationActor
from sb3_spiking.learning_rate import LearningRateScale
from sb3_spiking.options import SpikingOptions


class SpikingActor(Actor):
    """TD3's actor with a spiking network in place of the dense one.

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
    optimizer: Optimizer

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

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.options.as_kwargs()}

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        features = self.extract_features(observation, self.features_extractor)
        return self.mu(features, deterministic)  # type: ignore[no-any-return]  # nn.Module calls are Any

    def scale_learning_rate(self) -> None:
        """Make the optimizer, once SB3 has set it, step with `actor_lr_scale` times its rate."""
        LearningRateScale(self.options.actor_lr_scale).attach(self.optimizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled actors keep the scaled rate: optimizers drop their hooks there."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        if "optimizer" in self.__dict__:
            self.scale_learning_rate()
