"""The shared core of spiking policies: torch modules that know no RL library.

    obs [B, obs_dim] -> RunningNormalizer -> PopulationEncoder -> spikes [T, B, obs_dim * P]
        -> SpikingMLP: (Linear -> LIF) x n -> spikes [T, B, action_dim * P]
        -> PopulationDecoder -> values [B, action_dim]

ValueNetwork ends in a ValueReadout of one population in place of the decoder.

    tokens [B, L, D] -> SpikingTransformer: spike trains [T, B, L, D] inside -> [B, L, D]

Stable-Baselines3 users import `sb3_spiking` and never need this package.
"""

from policies.actor import PopulationActor, PopulationBody
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    NeuronConfig,
    PopulationActorConfig,
)
from policies.energy import LayerCount, OperationCount, count_operations
from policies.functional import (
    CurrentLIFState,
    LIFState,
    current_lif_sequence,
    current_lif_step,
    lif_sequence,
    lif_step,
)
from policies.neurons import LIF, CurrentLIF, make_neuron
from policies.normalization import NormConfig
from policies.normalizer import RunningNormalizer
from policies.population import PopulationDecoder, PopulationEncoder, PopulationReadout
from policies.spiking_mlp import SpikingMLP
from policies.surrogate import SURROGATES, SpikeFn, Surrogate, straight_through
from policies.transformer import SpikingTransformer, TransformerConfig
from policies.value import ValueNetwork, ValueReadout

# `policies` is a common folder name: the adapters check this mark before they trust the import.
SPIKING_CORE = True

__all__ = [
    "LIF",
    "SPIKING_CORE",
    "SURROGATES",
    "CurrentLIF",
    "CurrentLIFConfig",
    "CurrentLIFState",
    "DecoderConfig",
    "EncoderConfig",
    "LIFConfig",
    "LIFState",
    "LayerCount",
    "NeuronConfig",
    "NormConfig",
    "OperationCount",
    "PopulationActor",
    "PopulationActorConfig",
    "PopulationBody",
    "PopulationDecoder",
    "PopulationEncoder",
    "PopulationReadout",
    "RunningNormalizer",
    "SpikeFn",
    "SpikingMLP",
    "SpikingTransformer",
    "Surrogate",
    "TransformerConfig",
    "ValueNetwork",
    "ValueReadout",
    "count_operations",
    "current_lif_sequence",
    "current_lif_step",
    "lif_sequence",
    "lif_step",
    "make_neuron",
    "straight_through",
]
