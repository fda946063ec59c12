"""Spiking algorithms for d3rlpy: import this, then swap the config's class.

import d3rlpy
from d3rlpy_spiking import SpikingDecisionTransformerConfig

algo = SpikingDecisionTransformerConfig(context_size=20).create()
algo.fit(dataset, n_steps=10_000, n_steps_per_epoch=1_000)

Files that these algorithms save load with `d3rlpy.load_learnable` in a process that imports only
d3rlpy; other algorithms with an encoder of this package need `import d3rlpy_spiking` first.
"""

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

from d3rlpy_spiking.cli.quiet import command_start  # after the checks

# Help and wrong arguments of `python -m d3rlpy_spiking` need not wait for d3rlpy.
with command_start(__name__):
    from d3rlpy_spiking import datasets, maze
    from d3rlpy_spiking.decision_transformer import (
        DiscreteSpikingDecisionTransformer,
        DiscreteSpikingDecisionTransformerConfig,
        SpikingDecisionTransformer,
        SpikingDecisionTransformerConfig,
    )
    from d3rlpy_spiking.distributed import distribute
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
    "distribute",
    "load_dsformer",
    "maze",
]
