"""Spiking policies for TD3 and DDPG: a spiking actor beside SB3's own critics."""

from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from sb3_spiking.actors import SpikingActor
from sb3_spiking.options import SpikingOptions


class SpikingTD3Policy(TD3Policy):
    """`"SpikingPopPolicy"` of TD3 and DDPG: population-coded spiking actor, dense critics.

    Takes every keyword of TD3Policy with its meaning, and those of SpikingOptions. `net_arch` (or
    its "pi" part) gives the hidden spiking layers; `activation_fn` applies to the critics only.

    Args:
        observation_space: observation space.
        action_space: bounded Box.
        lr_schedule: the algorithm's learning-rate schedule; the actor's rate is `actor_lr_scale`
            times it.
        *args: as in TD3Policy.
        **kwargs: as in TD3Policy and SpikingOptions.

    Raises:
        ValueError: if an option is out of range or the observation space needs another policy.
        TypeError: if a keyword is unknown.

    Source: Tang et al. 2020 (PopSAN-TD3).
    """

    # What maps observations to features when policy_kwargs names nothing else; None: SB3's default.
    default_extractor: ClassVar[type[BaseFeaturesExtractor] | None] = None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        options, dense_kwargs = SpikingOptions.take_from(kwargs, TD3Policy)
        if "features_extractor_class" not in dense_kwargs:
            self._check_observation_space(observation_space)
            if self.default_extractor is not None:
                dense_kwargs["features_extractor_class"] = self.default_extractor
        # SB3's constructor builds the networks, so they must find the options set.
        self.options = options
        super().__init__(observation_space, action_space, lr_schedule, *args, **dense_kwargs)

    def _check_observation_space(self, observation_space: spaces.Space[Any]) -> None:
        """Refuse spaces that a flat network cannot take, or would take in silence."""
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"SpikingPopPolicy takes flat observations, got {observation_space}; "
                "use 'SpikingPopMultiInputPolicy'"
            )
        if is_image_space(observation_space):
            raise ValueError(
                f"SpikingPopPolicy would flatten the image {observation_space} into "
                "one population per pixel; use 'SpikingPopCnnPolicy', or set "
                "features_extractor_class in policy_kwargs"
            )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.actor, SpikingActor)
        self.actor.scale_learning_rate()

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> SpikingActor:
        """Build a spiking actor; SB3 calls it for the actor and for its target."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return SpikingActor(**kwargs, **self.options.as_kwargs()).to(self.device)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor._predict(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.options.as_kwargs()}


class SpikingTD3MultiInputPolicy(SpikingTD3Policy):
    """`"SpikingPopMultiInputPolicy"` of TD3 and DDPG: Dict observations, as MultiInputPolicy."""

    default_extractor = CombinedExtractor

    def _check_observation_space(self, observation_space: spaces.Space[Any]) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"SpikingPopMultiInputPolicy takes Dict observations, got {observation_space}; "
                "use 'SpikingPopPolicy'"
            )


class SpikingTD3CnnPolicy(SpikingTD3Policy):
    """`"SpikingPopCnnPolicy"` of TD3 and DDPG: a dense CNN in front of the spiking actor."""

    default_extractor = NatureCNN

    def _check_observation_space(self, observation_space: spaces.Space[Any]) -> None:
        """NatureCNN checks by itself, with regard to normalize_images."""
