"""What every spiking policy shares: its keywords, its observation spaces, its saved parameters."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

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
from torch import nn

from policies.kernels.choice import has_numba
from policies.spiking_mlp import SpikeLinear
from sb3_spiking.event_driven import Decision, EventDrivenPolicy, decide, decides_as_written
from sb3_spiking.faults import check_finite_observations, check_finite_output
from sb3_spiking.options import SpikingOptions


def in_mode(module: nn.Module, mode: bool) -> bool:
    """Whether a module and all below it are in training mode (or evaluation mode) already."""
    own = module.__dict__
    # Compiled and scripted modules have no such entry; statistics that wait are taken in by the
    # switch itself.
    if own.get("training") is not mode or own.get("_may_be_pending"):
        return False
    # A plain loop: a generator takes twice as long, and every `predict` comes here.
    for child in own["_modules"].values():
        if child is not None and not in_mode(child, mode):
            return False
    return True


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
    # Whether the algorithm asks an actor for targets, so that a proxy can answer.
    takes_proxy: ClassVar[bool] = False
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
        options = self._adapt_options(options)
        self._check_options(options)
        if options.proxy_target and not self.takes_proxy:
            raise ValueError(
                "proxy_target=True is for algorithms that ask an actor for targets: TD3, DDPG, SAC "
                f"and TQC; leave it out of the policy_kwargs of {type(self).__name__}"
            )
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

    def _adapt_options(self, options: SpikingOptions) -> SpikingOptions:
        """What an "auto" means for this algorithm."""
        return options

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
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """As SB3's; refuses actions that broken weights have made NaN.

        Raises:
            ValueError: if observations or actions are not finite.
        """
        dense: Any = super()
        policy: Any = self
        own_class: Any = type(self)
        plain = not args and not kwargs and state is None and decides_as_written(own_class)
        decision = self.decision(deterministic) if plain else None
        if decision is not None:
            self.set_training_mode(False)
            action = decide(policy, decision, observation)
            if action is not None:
                return action, state
        action, state = dense.predict(
            observation, state, episode_start, deterministic, *args, **kwargs
        )
        check_finite_output(policy, action)
        return action, state

    def decision(self, deterministic: bool) -> Decision | None:
        """How this policy decides; None where it draws, or is no single spiking network."""
        return None

    def to_event_driven(self) -> EventDrivenPolicy:
        """The policy as it is now, for acting only: see `EventDrivenPolicy`.

        Raises:
            ValueError: if this policy cannot act without its batched network.
            ImportError: if numba is not installed.
        """
        policy: Any = self
        self.set_training_mode(False)  # takes in statistics that wait
        decision = self.decision(deterministic=True)
        if decision is None:
            raise ValueError(
                f"{type(self).__name__} cannot be event-driven with action space "
                f"{policy.action_space}: only policies that read one action (continuous or "
                "Discrete) from one spiking network can, without gSDE, LSTM or action masks"
            )
        if not has_numba():
            raise ImportError(
                "event-driven policies need numba: pip install 'spiking-policies[fast]'"
            )
        return EventDrivenPolicy(
            decision, policy.observation_space, policy.action_space, policy.normalize_images
        )

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, which takes longer than a decision where the mode is set already."""
        policy: Any = self
        if not in_mode(policy, mode):
            dense: Any = super()
            dense.set_training_mode(mode)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As PyTorch's.

        Raises:
            RuntimeError: if the parameters are of a policy without batch normalization, and this
                one has it, or the other way round.
        """
        policy: Any = self
        dense: Any = super()
        for name, module in policy.named_modules():
            if isinstance(module, SpikeLinear):
                known = any(key.startswith(f"{name}.norm.") for key in state_dict)
                if known != (module.norm is not None) and f"{name}.weight" in state_dict:
                    # PyTorch's own for this; SB3 reads something else into a ValueError.
                    raise RuntimeError(
                        f"the parameters of {name} are of a policy with{'' if known else 'out'} "
                        f"batch normalization, and this one has {'none' if known else 'it'}. Load "
                        f"them into one with batch_norm={known}; a model's file by custom_objects="
                        f"{{'policy_kwargs': {{'batch_norm': {known}, ...}}}} with its other "
                        "policy_kwargs"
                    )
        return dense.load_state_dict(state_dict, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        dense: Any = super()
        return {**self.options.as_kwargs(), **dense._get_constructor_parameters()}


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
