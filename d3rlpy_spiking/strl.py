"""STRL: a spiking transformer with softmax attention on spikes, for mazes."""

import dataclasses
from typing import Literal

from d3rlpy.base import DeviceArg, register_learnable
from d3rlpy.constants import PositionEncodingType

from d3rlpy_spiking.dsformer import (
    DiscreteDSFormer,
    DiscreteDSFormerConfig,
    DSFormer,
    DSFormerConfig,
)


@dataclasses.dataclass()
class STRLConfig(DiscreteDSFormerConfig):
    """STRL for discrete actions: six blocks, spiking queries, keys and values, softmax attention.

    State, previous action, return-to-go and timestep are embedded into one token a step, with a
    learned position; spikes are averaged over 4 spike steps; cross-entropy on the data's action.
    Width, heads, neuron, norm and optimizer are not published: they are this library's and
    d3rlpy's defaults. Every field of d3rlpy's discrete config is accepted.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.

    Source: Uddin et al. 2025 (STRL).
    """

    attention: Literal["pssa", "tssa", "sssa", "softmax"] = "softmax"
    normalization: Literal["ptbn", "tdbn", "tdln", "folded"] = "tdln"
    num_layers: int = 6
    timestep_embedding: bool = True

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> "STRL":
        """The algorithm."""
        return STRL(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "spiking_strl"


class STRL(DiscreteDSFormer):
    """See STRLConfig."""


@dataclasses.dataclass()
class ContinuousSTRLConfig(DSFormerConfig):
    """As STRLConfig, for continuous actions in [-1, 1] and with their mean squared error.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.
    """

    attention: Literal["pssa", "tssa", "sssa", "softmax"] = "softmax"
    normalization: Literal["ptbn", "tdbn", "tdln", "folded"] = "tdln"
    num_layers: int = 6
    num_heads: int = 8
    timestep_embedding: bool = True
    position_encoding_type: PositionEncodingType = PositionEncodingType.GLOBAL

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> "ContinuousSTRL":
        """The algorithm."""
        return ContinuousSTRL(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "spiking_continuous_strl"


class ContinuousSTRL(DSFormer):
    """See ContinuousSTRLConfig."""


register_learnable(STRLConfig)
register_learnable(ContinuousSTRLConfig)
