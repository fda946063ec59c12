"""Names of algorithms in YAML files."""

from importlib import import_module
from typing import Any

from d3rlpy_spiking.cli.errors import UsageError, suggestion

_OURS = "d3rlpy_spiking"
_DENSE = "d3rlpy.algos"

_CONFIGS = {
    "dsformer": (_OURS, "DSFormerConfig"),
    "discrete_dsformer": (_OURS, "DiscreteDSFormerConfig"),
    "strl": (_OURS, "STRLConfig"),
    "continuous_strl": (_OURS, "ContinuousSTRLConfig"),
    "spiking_decision_transformer": (_OURS, "SpikingDecisionTransformerConfig"),
    "discrete_spiking_decision_transformer": (_OURS, "DiscreteSpikingDecisionTransformerConfig"),
    "spiking_tacr": (_OURS, "SpikingTACRConfig"),
    "decision_transformer": (_DENSE, "DecisionTransformerConfig"),
    "discrete_decision_transformer": (_DENSE, "DiscreteDecisionTransformerConfig"),
}

# The spiking ones first, then d3rlpy's dense ones to compare with.
ALGORITHMS = tuple(_CONFIGS)


def config_class(name: object) -> type[Any]:
    """The config's class for an algorithm's name.

    Raises:
        UsageError: if there is no such algorithm.
    """
    if not isinstance(name, str) or name not in _CONFIGS:
        raise UsageError(
            f"algorithm must be a known name, got {name!r}; {suggestion(str(name), _CONFIGS)}"
        )
    module, attribute = _CONFIGS[name]
    found: type[Any] = getattr(import_module(module), attribute)
    return found
