"""What every spiking policy shares: its keywords, its observation spaces, its saved parameters."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_spiking.faults import check_finite_observations, check_finite_output
from sb3_spiking.options import SpikingOptions


class SpikingPolicyMixin:
    """Put before a dense SB3 policy class: takes the spiking keywords, hands on all others.

    The dense class is the next in the method resolution order; what SB3 adds to its keywords works
    at once, and no default is written twice.

    Args:
        observation_space: observation space.
        action_space: action space.
        *args: as in the dense class.
        **kwargs: as in the dense class and in SpikingOptions.

    Raises:
        ValueError: if an option is out of range or the observation space needs another policy.
        TypeError: if a keyword is unknown.
    """

    # What maps observations to features when policy_kwargs names nothing else; None: SB3's default.
    default_extractor: ClassVar[type[BaseFeaturesExtractor] | None] = None
    # What to do with observations that the flat policy does not take.
    dict_remedy: ClassVar[str] = "use 'SpikingPopMultiInputPolicy'"
    image_remedy: ClassVar[str] = (
        "use 'SpikingPopCnnPolicy', or set features_extractor_class in policy_kwargs"
    )
    # Options whose default another algorithm's policy wants otherwise.
    default_options: ClassVar[Mapping[str, Any]] = {}
    options: SpikingOptions

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        dense_init: Any = super().__init__
        kwargs = {**self.default_options, **kwargs}
        options, dense_kwargs = SpikingOptions.take_from(kwargs, dense_init)
        self._check_options(options)
        signature = inspect.signature(dense_init)
        given = signature.bind_partial(observation_space, action_space, *args, **dense_kwargs)
        extractor = given.arguments.get("features_extractor_class")
        if extractor is None:
            dense_kwargs.pop("features_extractor_class", None)
            self._check_observation_space(observation_space)
            if self.default_extractor is not None:
                dense_kwargs["features_extractor_class"] = self.default_extractor
        elif extractor is FlattenExtractor and isinstance(observation_space, spaces.Dict):
            self._refuse_dict(observation_space)
        # SB3's constructor builds the networks, so they must find the options set.
        self.options = options
        dense_init(observation_space, action_space, *args, **dense_kwargs)

    def _check_options(self, options: SpikingOptions) -> None:
        """Refuse options that this algorithm cannot train with."""

    def _check_observation_space(self, observation_space: spaces.Space[Any]) -> None:
        """Refuse spaces that a flat network cannot take, or would take in silence."""
        if isinstance(observation_space, spaces.Dict):
            self._refuse_dict(observation_space)
        if is_image_space(observation_space):
            raise ValueError(
                f"SpikingPopPolicy would flatten the image {observation_space} into "
                f"one population per pixel; {self.image_remedy}"
            )

    def _refuse_dict(self, observation_space: spaces.Dict) -> NoReturn:
        raise ValueError(
            f"SpikingPopPolicy takes flat observations, got {observation_space}; {self.dict_remedy}"
        )

    def obs_to_tensor(self, observation: Any) -> tuple[PyTorchObs, bool]:
        """As SB3's, for `predict`; refuses NaN and infinity."""
        dense: Any = super()
        obs, vectorized = dense.obs_to_tensor(observation)
        check_finite_observations(obs)
        return obs, vectorized

    def predict(
        self, observation: Any, *args: Any, **kwargs: Any
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """As SB3's; refuses actions that broken weights have made NaN.

        Raises:
            ValueError: if observations or actions are not finite.
        """
        dense: Any = super()
        action, state = dense.predict(observation, *args, **kwargs)
        policy: Any = self
        check_finite_output(policy, torch.as_tensor(action))
        return action, state

    def _get_constructor_parameters(self) -> dict[str, Any]:
        dense: Any = super()
        return {**dense._get_constructor_parameters(), **self.options.as_kwargs()}


class DictInput:
    """Put before a spiking policy class: Dict observations, as MultiInputPolicy."""

    default_extractor: ClassVar[type[BaseFeaturesExtractor] | None] = CombinedExtractor

    def _check_observation_space(self, observation_space: spaces.Space[Any]) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"SpikingPopMultiInputPolicy takes Dict observations, got {observation_space}; "
                f"use 'SpikingPop{'Cnn' if is_image_space(observation_space) else ''}Policy'"
            )


class ImageInput:
    """Put before a spiking policy class: a dense CNN before the spikes, as CnnPolicy."""

    default_extractor: ClassVar[type[BaseFeaturesExtractor] | None] = NatureCNN

    def _check_observation_space(self, observation_space: spaces.Space[Any]) -> None:
        """NatureCNN checks by itself, with regard to normalize_images."""
