"""A population-coded spiking network where d3rlpy's algorithms have a dense encoder."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
from d3rlpy.models.torch import Encoder, EncoderWithAction
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # torch's
from torch.nn.functional import one_hot

from policies.actor import PopulationBody
from policies.checks import check_features
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    DecoderKind,
    EncoderConfig,
    EncoderKind,
    LIFConfig,
    NeuronConfig,
    PopulationActorConfig,
    check_choice,
    check_count,
    check_range,
)
from policies.surrogate import tracing

NeuronKind = Literal["current_lif", "lif"]


class SpikingTrunk(nn.Module):
    """Vectors [B, inputs] -> features [B, F]: scaled activity of F spiking neurons.

    It has parameters and no buffers: d3rlpy copies only parameters to a target network, and tries
    an encoder out on random numbers before it trains it.

    Args:
        inputs: size of the vectors, >= 1.
        config: sizes and neurons; F is the decoder's population size.
        gain: factor on the activity, > 0.
    """

    def __init__(self, inputs: int, config: PopulationActorConfig, gain: float) -> None:
        super().__init__()
        self.body = PopulationBody(inputs, 1, config)
        self.reach = config.encoder.field_range
        self.gain = gain

    def features(self, x: Tensor) -> Tensor:
        """Features of x [B, inputs]; NaN for samples with a value that is NaN or infinite.

        "poisson" draws in training mode only.
        """
        if tracing():
            # The tracer warns at each check of a shape, and the outcome of these may be fixed.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TracerWarning)
                return self._features(x)
        return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        activity: Tensor = self.body(squeeze(x, self.reach), deterministic=not self.training)
        return self.gain * activity


class PopulationSpikingEncoder(SpikingTrunk, Encoder):
    """Observations [B, n] -> features [B, F]; made by `PopulationSpikingEncoderFactory`."""

    def forward(self, x: Tensor) -> Tensor:
        """Encode a batch of observations."""
        return self.features(x)


class PopulationSpikingEncoderWithAction(SpikingTrunk, EncoderWithAction):
    """Observations [B, n] and actions -> features [B, F]; actions are population-coded as well.

    Args:
        observations: n.
        actions: size of an action, or the number of discrete actions.
        discrete: actions are integers, [B] or [B, 1], in place of vectors [B, actions].
        config: as in SpikingTrunk.
        gain: likewise.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        discrete: bool,
        config: PopulationActorConfig,
        gain: float,
    ) -> None:
        super().__init__(observations + actions, config, gain)
        self.actions = actions
        self.discrete = discrete

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """Encode a batch of observations and actions.

        Raises:
            ValueError: if the actions have another shape.
        """
        if self.discrete:
            action = one_hot(action.reshape(-1).long(), self.actions)
        if not tracing():
            check_features("action", action, self.actions)
        return self.features(torch.cat([x, action.to(x.dtype)], dim=1))


def squeeze(x: Tensor, reach: float) -> Tensor:
    """Bend all numbers into (-reach, reach), close to 0 as they are: x / sqrt(1 + (x / reach)^2).

    Clipping would make all values beyond the receptive fields look alike. In recordings of a good
    policy the rare states far from the mean (the start, a fall) are the ones that need telling
    apart. NaN, infinity and values whose square overflows come out as NaN.
    """
    square = (x / reach).square()
    return x / torch.sqrt(1.0 + square) + 0.0 * square.detach()


@dataclass()
class PopulationSpikingEncoderFactory(EncoderFactory):
    """Spiking network for the encoder fields of d3rlpy's configs, with PopSAN's defaults.

    Inputs are population-coded into spikes, hidden layers of spiking neurons follow, and the last
    layer's firing rates are the features from which d3rlpy's own dense head computes actions or
    values:

        d3rlpy.algos.TD3PlusBCConfig(
            actor_encoder_factory=PopulationSpikingEncoderFactory(),
            observation_scaler=d3rlpy.preprocessing.StandardObservationScaler(),
        )

    *   Receptive fields cover +-`encoder_range`, so observations should be scaled, and d3rlpy's
        scaler is saved with the algorithm: `StandardObservationScaler()`. The network learns no
        statistics of its own.
    *   A network costs about `spike_steps` times its dense counterpart, and critics come in pairs:
        a spiking actor with dense critics is the usual choice.
    *   Rates in [0, 1] reach values of 50 slowly: spiking critics, value functions and DQN's
        networks want `feature_gain=5.0` where returns are that large.
    *   Only vector observations; actions are vectors in [-1, 1], or integers.
    *   The learning rates of d3rlpy's configs serve as they are.
    *   `import d3rlpy_spiking` before `load_learnable` and `from_json`, which otherwise raise
        KeyError: 'population_spiking'. TorchScript files from `save_policy("policy.pt")` need
        neither package. d3rlpy's own .onnx files, of opset version 11, cannot hold the network:
        give the network, or a traced function around it, to `torch.onnx.export` with dynamo=False
        and opset_version=13 or later. Such a file runs with the batch size of its example.

    Raises:
        ValueError: if a value is out of range or a name unknown, when the factory is made and when
            it makes a network.
        TypeError: if a value has the wrong type.

    Source: Tang et al. 2020 (PopSAN).
    """

    # neurons of each spiking layer, at least one; the last is the number of features
    hidden_units: list[int] = field(default_factory=lambda: [256, 256])
    # spike steps per decision (T), >= 1
    spike_steps: int = 5
    # encoder neurons per input, >= 1
    encoder_pop_size: int = 10
    # spike generation: "deterministic", "poisson" (draws in training only), "analog"
    encoder: EncoderKind = "deterministic"
    # receptive fields start evenly spaced on +- this, in units of the input, > 0
    encoder_range: float = 3.0
    # initial std of the receptive fields, > 0; None: 0.58 x their spacing
    encoder_std: float | None = None
    # features: "rate", spikes per spike step, or "membrane", spikes
    decoder: DecoderKind = "rate"
    # factor on the features, > 0; 1 for actors, about 5 where a head computes large values
    feature_gain: float = 1.0
    # neuron of every layer: "current_lif" or "lif"
    neuron: NeuronKind = "current_lif"
    # membrane decay per spike step, [0, 1]
    v_decay: float = 0.75
    # decay of the synaptic current per spike step, [0, 1]; "lif" has none
    i_decay: float = 0.5
    # firing threshold, > 0
    v_threshold: float = 0.5
    # surrogate derivative: "rectangle", "sigmoid", "arctan", "triangle"
    surrogate: str = "rectangle"
    # its width, > 0, in units of v
    surrogate_width: float = 1.0

    def __post_init__(self) -> None:
        """Check every field, and make numpy's numbers Python's: fields are saved as JSON."""
        for option in fields(self):
            setattr(self, option.name, _plain(getattr(self, option.name)))
        self.network_config()

    def create(self, observation_shape: Sequence[int]) -> PopulationSpikingEncoder:
        """A network for observations [B, n].

        Raises:
            ValueError: unless observation_shape is (n,).
        """
        size = _vector_size(observation_shape)
        return PopulationSpikingEncoder(size, self.network_config(), self.feature_gain)

    def create_with_action(
        self, observation_shape: Sequence[int], action_size: int, discrete_action: bool = False
    ) -> PopulationSpikingEncoderWithAction:
        """A network for observations [B, n] and actions, [B, action_size] or integers.

        Raises:
            ValueError: unless observation_shape is (n,) and action_size at least 1.
        """
        size = _vector_size(observation_shape)
        check_count("action_size", action_size)
        return PopulationSpikingEncoderWithAction(
            size, action_size, discrete_action, self.network_config(), self.feature_gain
        )

    def neuron_config(self) -> NeuronConfig:
        """Settings of the spiking layers."""
        check_choice("neuron", self.neuron, get_args(NeuronKind))
        check_range("i_decay", self.i_decay, 0.0, 1.0)
        common: dict[str, Any] = {
            "v_decay": self.v_decay,
            "v_threshold": self.v_threshold,
            "surrogate": self.surrogate,
            "surrogate_width": self.surrogate_width,
        }
        if self.neuron == "lif":
            return LIFConfig(**common)
        return CurrentLIFConfig(i_decay=self.i_decay, **common)

    def network_config(self) -> PopulationActorConfig:
        """The core's settings; the last hidden layer is the population that is read."""
        _check_hidden_units(self.hidden_units)
        check_range("feature_gain", self.feature_gain, 0.0, open_low=True)
        return PopulationActorConfig(
            hidden_sizes=tuple(self.hidden_units[:-1]),
            spike_steps=self.spike_steps,
            encoder=EncoderConfig(
                pop_size=self.encoder_pop_size,
                kind=self.encoder,
                field_range=self.encoder_range,
                std=self.encoder_std,
            ),
            neuron=self.neuron_config(),
            decoder=DecoderConfig(pop_size=self.hidden_units[-1], kind=self.decoder),
            normalize=False,
            squash=False,
        )

    @staticmethod
    def get_type() -> str:
        """The name under which d3rlpy finds the class again in saved files."""
        return "population_spiking"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _check_hidden_units(hidden_units: Any) -> None:
    if not isinstance(hidden_units, list):
        raise TypeError(f"hidden_units must be a list of layer sizes, got {hidden_units!r}")
    if not hidden_units:
        raise ValueError("hidden_units must name at least one layer, got []; for example [256]")
    for size in hidden_units:
        check_count("hidden_units", size)


def _vector_size(observation_shape: Any) -> int:
    """The n of an observation shape (n,)."""
    shape = tuple(observation_shape)
    if len(shape) == 1 and not isinstance(shape[0], (tuple, list)):
        return int(shape[0])
    remedy = (
        "join the parts of each observation into one vector"
        if any(isinstance(part, (tuple, list)) for part in shape)
        else "flatten the observations, or give images to d3rlpy's PixelEncoderFactory"
    )
    raise ValueError(
        "PopulationSpikingEncoderFactory takes vector observations, observation_shape (n,), got "
        f"{observation_shape}; {remedy}"
    )


register_encoder_factory(PopulationSpikingEncoderFactory)
