import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)

BAD: list[tuple[Callable[..., Any], str, Any, type[Exception], str]] = [
    (LIFConfig, "v_decay", -0.1, ValueError, r"v_decay must be in \[0, 1\], got -0.1"),
    (LIFConfig, "v_decay", 1.5, ValueError, r"v_decay must be in \[0, 1\]"),
    (LIFConfig, "v_decay", math.nan, ValueError, "v_decay"),
    (LIFConfig, "v_decay", "0.5", TypeError, "v_decay must be a number, got '0.5'"),
    (LIFConfig, "v_threshold", 0.0, ValueError, "v_threshold"),
    (LIFConfig, "v_threshold", math.inf, ValueError, "v_threshold"),
    (LIFConfig, "reset_mode", "none", ValueError, "hard.*soft.*'none'"),
    (LIFConfig, "surrogate", "heaviside", ValueError, "rectangle.*'heaviside'"),
    (LIFConfig, "surrogate_width", -1.0, ValueError, "surrogate_width"),
    (CurrentLIFConfig, "i_decay", -0.5, ValueError, "i_decay"),
    (CurrentLIFConfig, "v_decay", 2.0, ValueError, "v_decay"),
    (EncoderConfig, "pop_size", 0, ValueError, "encoder_pop_size must be at least 1, got 0"),
    (EncoderConfig, "pop_size", 2.5, TypeError, "encoder_pop_size must be an integer"),
    (EncoderConfig, "pop_size", True, TypeError, "encoder_pop_size must be an integer"),
    (EncoderConfig, "kind", "rate", ValueError, "deterministic.*poisson.*analog.*'rate'"),
    (EncoderConfig, "field_range", 0.0, ValueError, "encoder_range"),
    (EncoderConfig, "std", 0.0, ValueError, "encoder_std"),
    (EncoderConfig, "v_threshold", 0.0, ValueError, "v_threshold"),
    (EncoderConfig, "v_init", 1.0, ValueError, r"encoder_v_init must be in \[0, 1\), got 1.0"),
    (EncoderConfig, "v_init", -0.1, ValueError, r"encoder_v_init must be in \[0, 1\), got -0.1"),
    (EncoderConfig, "v_init", math.nan, ValueError, r"encoder_v_init must be in \[0, 1\), got nan"),
    (EncoderConfig, "v_init", True, TypeError, "encoder_v_init must be a number, got True"),
    (DecoderConfig, "pop_size", -3, ValueError, "decoder_pop_size"),
    (DecoderConfig, "kind", "max", ValueError, "rate.*membrane.*'max'"),
    (DecoderConfig, "v_decay", 1.1, ValueError, "v_decay"),
    (PopulationActorConfig, "spike_steps", 0, ValueError, "spike_steps"),
    (PopulationActorConfig, "hidden_sizes", (64, 0), ValueError, "net_arch sizes"),
]


@pytest.mark.parametrize(("config", "field", "value", "error", "message"), BAD)
def test_bad_values_are_named(
    config: Callable[..., Any], field: str, value: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        config(**{field: value})


def test_the_edges_are_allowed() -> None:
    LIFConfig(v_decay=0), LIFConfig(v_decay=1), CurrentLIFConfig(i_decay=0.0)
    EncoderConfig(pop_size=1), PopulationActorConfig(hidden_sizes=(), spike_steps=1)


def test_an_analog_encoder_has_no_membrane_to_start() -> None:
    with pytest.raises(ValueError, match=r"encoder_v_init=0\.5 with encoder='analog'.*leave it"):
        EncoderConfig(kind="analog", v_init=0.5)
    EncoderConfig(kind="analog", v_init=0.0), EncoderConfig(kind="poisson", v_init=0.5)


def test_the_start_is_a_share_of_the_threshold_in_float32() -> None:
    assert EncoderConfig().v_start == 0.0
    assert EncoderConfig(v_init=0.5, v_threshold=0.75).v_start == 0.375
    start = EncoderConfig(v_init=0.3).v_start
    assert start == float(np.float32(0.3 * 0.999))
    assert start != 0.3 * 0.999
    # Of an object that was pickled before there was the field.
    old = EncoderConfig()
    del old.__dict__["v_init"]
    assert pickle.loads(pickle.dumps(old)) == EncoderConfig()
    assert pickle.loads(pickle.dumps(old)).v_start == 0.0


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LIFConfig().v_decay = 0.5  # type: ignore[misc]  # the point of the test


def test_defaults_are_popsans() -> None:
    neuron = CurrentLIFConfig()
    assert (neuron.i_decay, neuron.v_decay, neuron.v_threshold) == (0.5, 0.75, 0.5)
    assert (neuron.surrogate, neuron.surrogate_width, neuron.detach_reset) == (
        "rectangle",
        1,
        False,
    )
    encoder = EncoderConfig()
    assert (encoder.pop_size, encoder.field_range, encoder.v_threshold) == (10, 3.0, 0.999)
    assert encoder.initial_std == pytest.approx(math.sqrt(0.15))
    config = PopulationActorConfig()
    assert (config.spike_steps, config.hidden_sizes, config.decoder.pop_size) == (5, (256, 256), 10)


def test_receptive_fields_keep_their_overlap_at_other_sizes() -> None:
    assert EncoderConfig(pop_size=19).initial_std == pytest.approx(math.sqrt(0.15) / 2)
    assert EncoderConfig(pop_size=1).initial_std > 1.0
    assert EncoderConfig(std=0.7).initial_std == 0.7
