"""Spiking policies for RecurrentPPO: dense LSTMs in front of a spiking actor."""

from typing import Any

from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from policies.actor import PopulationBody
from sb3_spiking.mixin import DictInput, ImageInput
from sb3_spiking.on_policy import SpikingActorCritic


class SpikingRecurrentActorCriticPolicy(SpikingActorCritic, RecurrentActorCriticPolicy):
    """`"SpikingPopLstmPolicy"` of RecurrentPPO, also `"SpikingPopPolicy"`.

    The memory over an episode is SB3's dense LSTM; its output goes through population coding and
    the spiking layers, whose own state lives inside one decision. Takes every keyword of
    RecurrentActorCriticPolicy with its meaning, and those of SpikingOptions.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        # sb3-contrib has made a new optimizer after building the LSTMs.
        self._make_optimizer(lr_schedule)

    def _input_size(self) -> int:
        return self.lstm_output_dim

    def _fix_bounds(self, body: PopulationBody) -> None:
        """Nothing: what the body sees are LSTM outputs, whatever the observations' bounds."""

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """As SB3's. The size for MultiDiscrete observations is numpy's, which an LSTM refuses."""
        extractor = super().make_features_extractor()
        extractor._features_dim = int(extractor.features_dim)
        return extractor

    def evaluate_actions(  # type: ignore[override]  # sb3-contrib's differs from SB3's in the same way
        self, obs: Tensor, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As sb3-contrib's, whose MultiBinary actions are integers here; torch wants floats."""
        if isinstance(self.action_space, spaces.MultiBinary):
            actions = actions.float()
        return super().evaluate_actions(obs, actions, lstm_states, episode_starts)


class SpikingRecurrentActorCriticMultiInputPolicy(DictInput, SpikingRecurrentActorCriticPolicy):
    """`"SpikingPopMultiInputLstmPolicy"`: Dict observations, as MultiInputLstmPolicy."""


class SpikingRecurrentActorCriticCnnPolicy(ImageInput, SpikingRecurrentActorCriticPolicy):
    """`"SpikingPopCnnLstmPolicy"`: a dense CNN in front of the LSTMs."""
