"""The spiking fields that every config of a spiking transformer adds to d3rlpy's own."""

import dataclasses
import warnings
from numbers import Integral
from typing import Any, Literal

from d3rlpy.algos.transformer.base import TransformerConfig as D3RLPyConfig

from policies.config import LIFConfig, check_count, check_range
from policies.transformer import TransformerConfig


@dataclasses.dataclass()
class SpikingFields:
    """Fields of the spiking core. The defaults are DSFormer's, as published."""

    # mixing of tokens: "pssa", "tssa", "sssa" or "softmax"; see policies.attention
    attention: Literal["pssa", "tssa", "sssa", "softmax"] = "pssa"
    # norms: "ptbn", "tdbn", "tdln", or "folded" (none; what fold() makes)
    normalization: Literal["ptbn", "tdbn", "tdln", "folded"] = "ptbn"
    # spike steps per decision (T), >= 1
    spike_steps: int = 4
    # environment steps that PSSA sees, the present one included, >= 1
    window_size: int = 8
    # gradient steps until PTBN has gone from layer to batch statistics, >= 1; a tenth of training
    ptbn_steps: int = 2000
    # factor on the membrane potential per spike step, [0, 1]
    v_decay: float = 0.25
    # neurons fire above it, > 0; the norms' gains start at it
    v_threshold: float = 0.5
    # after a spike: "hard" sets v to 0 (DSFormer); "soft" subtracts the threshold, so that with
    # v_decay=1 a neuron's spikes count its input: a graded value in place of nearly a yes or no
    reset_mode: Literal["hard", "soft"] = "hard"
    # no gradient through the spike in the reset (DSFormer); False is the exact one of a soft reset
    detach_reset: bool = True
    # shape and width of the surrogate derivative; see policies.surrogate
    surrogate: str = "rectangle"
    surrogate_width: float = 1.0
    # the width for the neurons behind attention; the release's 1 gives attention no gradient
    mix_surrogate_width: float = 2.0
    # hidden features of a block's MLP over the width, >= 1
    mlp_ratio: int = 4
    # batch statistics leave out padded tokens; DSFormer's release False
    mask_statistics: bool = True
    # the other PTBN of DSFormer's release: layer statistics over T too, RepBN
    advanced_norm: bool = False
    # factor on the start gain of norms at the end of a branch; DSFormer meant 0.707, released 1
    branch_gain: float = 1.0
    # matmuls of spikes: "float32", or "bf16" (weights and sums rounded; faster, spikes flip)
    matmul: Literal["float32", "bf16"] = "float32"
    # what computes the rest: "auto", "torch", "fused", "numba", "triton"; policies.kernels.choice
    kernel: Literal["auto", "torch", "fused", "numba", "triton"] = "auto"
    # gradient steps between two looks of the spike monitor; 0: none; see d3rlpy_spiking.monitor
    monitor_every: int = 500


def neuron_config(config: SpikingFields) -> LIFConfig:
    """The neurons' settings."""
    return LIFConfig(
        v_decay=config.v_decay,
        v_threshold=config.v_threshold,
        reset_mode=config.reset_mode,
        detach_reset=config.detach_reset,
        surrogate=config.surrogate,
        surrogate_width=config.surrogate_width,
    )


def core_config(config: Any, width: int, tokens: int) -> TransformerConfig:
    """The core's config for tokens of that width.

    Args:
        config: a d3rlpy transformer config with `SpikingFields`.
        width: features of a token; the encoder decides it.
        tokens: tokens per environment step, which context and window count in.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.
    """
    return TransformerConfig(
        width=width,
        context=tokens * config.context_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        spike_steps=config.spike_steps,
        attention=config.attention,
        window=tokens * config.window_size,
        normalization=config.normalization,
        mask_statistics=config.mask_statistics,
        advanced_norm=config.advanced_norm,
        branch_gain=config.branch_gain,
        mlp_ratio=config.mlp_ratio,
        attn_dropout=config.attn_dropout,
        resid_dropout=config.resid_dropout,
        neuron=neuron_config(config),
        mix_surrogate_width=config.mix_surrogate_width,
        matmul=config.matmul,
        kernel=config.kernel,
    )


def check_config(config: Any, uses_timesteps: bool) -> None:
    """Raise for every field that no network could be built from; warn of one without effect.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.
    """
    for name in ("batch_size", "context_size", "max_timestep", "ptbn_steps", "window_size"):
        check_count(name, getattr(config, name))
    check_interval("monitor_every", config.monitor_every)
    rate = "actor_learning_rate" if hasattr(config, "actor_learning_rate") else "learning_rate"
    check_range(rate, getattr(config, rate), 0.0, open_low=True)
    check_range("embed_dropout", config.embed_dropout, 0.0, 1.0)
    for name in ("mask_statistics", "advanced_norm", "detach_reset"):
        if not isinstance(getattr(config, name), bool):
            raise TypeError(f"{name} must be True or False, got {getattr(config, name)!r}")
    check_count("num_heads", config.num_heads)
    core_config(config, config.num_heads, 1)  # any width that the heads divide
    check_position_table(config, uses_timesteps)
    default = next(f.default for f in dataclasses.fields(config) if f.name == "activation_type")
    if config.activation_type != default:
        warnings.warn(
            f"activation_type={config.activation_type!r} has no effect: the neurons of a spiking "
            "transformer are its activation",
            UserWarning,
            stacklevel=4,
        )


def check_interval(name: str, value: object) -> None:
    """Raise unless value is an integer of at least 1, or 0, which stands for never."""
    wanted = f"{name} must be an integer of at least 1, or 0 for none, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(wanted)
    if int(value) < 0:
        raise ValueError(wanted)


def check_position_table(config: D3RLPyConfig, uses_timesteps: bool) -> None:
    """Raise ValueError if the context is longer than the table of timestep embeddings."""
    if uses_timesteps and config.context_size > config.max_timestep:
        raise ValueError(
            f"context_size must be at most max_timestep, the length of the position table, got "
            f"context_size={config.context_size} and max_timestep={config.max_timestep}; raise "
            "max_timestep to the longest episode"
        )
