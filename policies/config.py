"""Frozen settings of the spiking core: plain values, checked once, each with unit and source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np

from policies.kernels.choice import Kernel, Matmul, MatmulBackward
from policies.surrogate import SURROGATES

ResetMode = Literal["hard", "soft"]
EncoderKind = Literal["deterministic", "poisson", "analog"]
DecoderKind = Literal["rate", "membrane"]

# PopSAN's receptive-field std relative to the spacing of its means: sqrt(0.15) / (6 / 9).
STD_PER_SPACING = math.sqrt(0.15) / (6.0 / 9.0)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless value is one of choices; the message lists them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def check_range(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless value is a finite number in [low, high].

    With `open_low` low itself is out of range, with `open_high` high.

    Raises:
        TypeError: if value is not a number.
        ValueError: if it is out of range or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    too_low = number <= low if open_low else number < low
    too_high = number >= high if open_high else number > high
    if too_low or too_high or not math.isfinite(number):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name} must be in {left}{low:g}, {high:g}{right}, got {value!r}")


def check_count(name: str, value: object) -> None:
    """Raise unless value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if int(value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class LIFConfig:
    """Leaky integrate-and-fire neuron. The defaults are PopSAN's."""

    # factor on v per spike step, [0, 1]; 1 is no leak; PopSAN 3/4, DSFormer 1/4
    v_decay: float = 0.75
    # spikes where v > v_threshold (strict), > 0; PopSAN and DSFormer 0.5
    v_threshold: float = 0.5
    # after a spike: "hard" sets v to 0 (PopSAN, DSFormer), "soft" subtracts v_threshold
    reset_mode: ResetMode = "hard"
    # True: no gradient through the spike in the reset (DSFormer); False: as PopSAN
    detach_reset: bool = False
    # shape of the surrogate derivative; see policies.surrogate
    surrogate: str = "rectangle"
    # width of the rectangle of equal peak height, > 0, in units of v; PopSAN and DSFormer 1
    surrogate_width: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        check_range("v_decay", self.v_decay, 0.0, 1.0)
        check_range("v_threshold", self.v_threshold, 0.0, open_low=True)
        check_choice("reset_mode", self.reset_mode, get_args(ResetMode))
        check_choice("surrogate", self.surrogate, SURROGATES)
        check_range("surrogate_width", self.surrogate_width, 0.0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class CurrentLIFConfig(LIFConfig):
    """LIF neuron whose input is low-pass filtered into a synaptic current first."""

    # factor on the synaptic current per spike step, [0, 1]; PopSAN 1/2
    i_decay: float = 0.5

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        check_range("i_decay", self.i_decay, 0.0, 1.0)


NeuronConfig = LIFConfig | CurrentLIFConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Gaussian receptive fields and the way they become spikes. The defaults are PopSAN's."""

    # neurons per observation dimension, >= 1; PopSAN 10
    pop_size: int = 10
    # how activations become spikes: soft-reset integrator, Bernoulli draws, or not at all
    kind: EncoderKind = "deterministic"
    # means start evenly spaced on [-field_range, field_range], in units of the input; PopSAN 3
    field_range: float = 3.0
    # initial std of every field, > 0; None: 0.58 x the spacing, PopSAN's sqrt(0.15) at 10 neurons
    std: float | None = None
    # threshold of the deterministic integrator, > 0; PopSAN 0.999
    v_threshold: float = 0.999
    # membrane that it starts with, relative to the threshold, [0, 1): 0 (PopSAN) rounds a field's
    # activation, summed over the steps, down to its spikes; 0.5 to the nearest number
    v_init: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        check_count("encoder_pop_size", self.pop_size)
        check_choice("encoder", self.kind, get_args(EncoderKind))
        check_range("encoder_range", self.field_range, 0.0, open_low=True)
        if self.std is not None:
            check_range("encoder_std", self.std, 0.0, open_low=True)
        check_range("encoder v_threshold", self.v_threshold, 0.0, open_low=True)
        check_range("encoder_v_init", self.v_init, 0.0, 1.0, open_high=True)
        if self.v_init and self.kind == "analog":
            raise ValueError(
                f"encoder_v_init={self.v_init!r} with encoder='analog': there is no membrane that "
                "could start at it; leave it out, or use encoder='deterministic'"
            )

    @property
    def v_start(self) -> float:
        """The membrane that the deterministic integrator starts with, a float32 number."""
        return float(np.float32(self.v_init * self.v_threshold))

    @property
    def initial_std(self) -> float:
        """The std that every receptive field starts with."""
        if self.std is not None:
            return self.std
        return STD_PER_SPACING * 2.0 * self.field_range / max(self.pop_size - 1, 1)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Reading values from populations of output neurons. The defaults are PopSAN's."""

    # output neurons per action dimension, >= 1; PopSAN 10
    pop_size: int = 10
    # "rate": weights x firing rate + bias (PopSAN); "membrane": a non-spiking neuron sums over T
    kind: DecoderKind = "rate"
    # factor on the membrane readout per spike step, [0, 1]; ILC-SAN 1 (no leak)
    v_decay: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        check_count("decoder_pop_size", self.pop_size)
        check_choice("decoder", self.kind, get_args(DecoderKind))
        check_range("decoder v_decay", self.v_decay, 0.0, 1.0)

    @property
    def countable(self) -> bool:
        """Whether the readout sees numbers of spikes; of a membrane that leaks it does not."""
        return self.kind == "rate" or self.v_decay in (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class PopulationActorConfig:
    """A whole population-coded actor. The defaults are PopSAN's."""

    # neurons of each hidden layer; may be empty
    hidden_sizes: tuple[int, ...] = (256, 256)
    # spike steps per decision (T), >= 1; PopSAN 5
    spike_steps: int = 5
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    neuron: NeuronConfig = field(default_factory=CurrentLIFConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    # a running z-score in front of the encoder, clipped to the encoder's range
    normalize: bool = True
    # the z-score learns only between training phases; see RunningNormalizer
    defer_normalizer: bool = False
    # tanh on the decoded values, so that they lie in [-1, 1]
    squash: bool = True
    # batch normalization in front of every layer's neurons; see policies.batch_norm
    batch_norm: bool = False
    # arithmetic of spikes times weights; see policies.kernels.matmul
    matmul: Matmul = "exact"
    # operands of the matmuls of backward; "auto": bf16 with matmul="bf16", else float32
    matmul_backward: MatmulBackward = "auto"
    # what runs the neurons; see policies.kernels.choice
    kernel: Kernel = "auto"
    # each action's output neurons feed their spikes back to each other; see policies.intra_layer
    intra_layer: bool = False
    # loss that 1000 synaptic operations of a decision cost in training, >= 0; see policies.synops
    synops_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields that are not configs themselves."""
        for size in self.hidden_sizes:
            check_count("net_arch sizes", size)
        check_count("spike_steps", self.spike_steps)
        if not isinstance(self.batch_norm, bool):
            raise TypeError(f"batch_norm must be True or False, got {self.batch_norm!r}")
        check_choice("matmul", self.matmul, get_args(Matmul))
        check_choice("matmul_backward", self.matmul_backward, get_args(MatmulBackward))
        check_choice("kernel", self.kernel, get_args(Kernel))
        check_range("synops_penalty", self.synops_penalty, 0.0)
        if not isinstance(self.intra_layer, bool):
            raise TypeError(f"intra_layer must be True or False, got {self.intra_layer!r}")
        if self.intra_layer and self.batch_norm:
            raise ValueError(
                "intra_layer=True with batch_norm=True: spikes that feed back would make the "
                "currents that are normalized; use one of the two"
            )
        if self.intra_layer and self.spike_steps < 2:
            raise ValueError(
                "intra_layer=True needs spike_steps >= 2: spikes come back a step later"
            )
