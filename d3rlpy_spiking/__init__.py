"""Spiking algorithms for d3rlpy: import this, then swap the config's class."""

from importlib.util import find_spec

import policies

if not getattr(policies, "SPIKING_CORE", False):
    raise ImportError(
        "d3rlpy_spiking needs the package 'policies' that is installed with it, but found another "
        f"one at {getattr(policies, '__file__', None) or list(policies.__path__)}; rename that "
        "folder or file, or start Python from another directory"
    )
if find_spec("d3rlpy") is None:
    raise ImportError(
        "d3rlpy_spiking needs d3rlpy: pip install 'spiking-policies[d3rlpy]'", name=__name__
    )

from d3rlpy_spiking import datasets, maze  # after the checks
from d3rlpy_spiking.decision_transformer import (
    DiscreteSpikingDecisionTransformer,
    DiscreteSpikingDecisionTransformerConfig,
    SpikingDecisionTransformer,
    SpikingDecisionTransformerConfig,
)
from d3rlpy_spiking.dsformer import (
    DiscreteDSFormer,
    DiscreteDSFormerConfig,
    DSFormer,
    DSFormerConfig,
)
from d3rlpy_spiking.encoders import PopulationSpikingEncoderFactory
from d3rlpy_spiking.release import load_dsformer
from d3rlpy_spiking.schedulers import WarmupCosineFactory
from d3rlpy_spiking.strl import STRL, ContinuousSTRL, ContinuousSTRLConfig, STRLConfig
from d3rlpy_spiking.tacr import SpikingTACR, SpikingTACRConfig

__all__ = [
    "STRL",
    "ContinuousSTRL",
    "ContinuousSTRLConfig",
    "DSFormer",
    "DSFormerConfig",
    "DiscreteDSFormer",
    "DiscreteDSFormerConfig",
    "DiscreteSpikingDecisionTransformer",
    "DiscreteSpikingDecisionTransformerConfig",
    "PopulationSpikingEncoderFactory",
    "STRLConfig",
    "SpikingDecisionTransformer",
    "SpikingDecisionTransformerConfig",
    "SpikingTACR",
    "SpikingTACRConfig",
    "WarmupCosineFactory",
    "datasets",
    "load_dsformer",
    "maze",
]
