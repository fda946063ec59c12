"""The untrained dense twin of a spiking transformer, and what tells the two apart."""

import dataclasses
from typing import Any

from d3rlpy.algos import (
    DecisionTransformerConfig,
    DiscreteDecisionTransformerConfig,
    TACRConfig,
)
from d3rlpy.constants import ActionSpace
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.models.torch.transformers import GPT2
from d3rlpy.torch_utility import unwrap_ddp_model
from torch import nn

from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.encoders import PopulationSpikingEncoderFactory
from d3rlpy_spiking.maze import WavefrontEncoderFactory
from d3rlpy_spiking.tacr import SpikingTACRConfig
from d3rlpy_spiking.transformer import JointTokenTransformer
from policies.neurons import LIF, CurrentLIF

_ENCODERS = ("encoder_factory", "actor_encoder_factory", "critic_encoder_factory")


def network(algo: Any) -> nn.Module:
    """The network that acts."""
    found: nn.Module = unwrap_ddp_model(algo.impl.modules.transformer)
    return found


def spikes(algo: Any) -> bool:
    """Whether an algorithm's network has spiking neurons."""
    return any(isinstance(module, LIF | CurrentLIF) for module in network(algo).modules())


def untrained_twin(algo: Any) -> tuple[Any, list[str]]:
    """d3rlpy's own algorithm with every setting that the two share, built and untrained.

    Returns:
        the algorithm, and sentences on what differs.

    Raises:
        UsageError: if it cannot be built.
    """
    config = algo.config
    twin: type[Any] = DecisionTransformerConfig
    if isinstance(config, SpikingTACRConfig):
        twin = TACRConfig
    elif algo.get_action_type() == ActionSpace.DISCRETE:
        twin = DiscreteDecisionTransformerConfig
    notes = []
    own = {field.name for field in dataclasses.fields(config)}
    names = [field.name for field in dataclasses.fields(twin) if field.init and field.name in own]
    shared = {name: getattr(config, name) for name in names}
    width = _width(algo)
    for name in _ENCODERS:
        if isinstance(shared.get(name), WavefrontEncoderFactory):
            shared[name] = dataclasses.replace(shared[name], spiking=False)
            notes.append(f"The twin's {name} is the wavefront planner without spikes.")
        if isinstance(shared.get(name), PopulationSpikingEncoderFactory):
            shared[name] = VectorEncoderFactory(hidden_units=[width])
            notes.append(
                f"The twin's {name} is one linear layer of {width} features in place of a "
                "population-coded network."
            )
    if isinstance(network(algo), JointTokenTransformer):
        notes.append(
            f"The twin, {twin.__name__.removesuffix('Config')}, reads three tokens a step (return, "
            "state, action), the spiking network one: its sequence is three times as long."
        )
    try:
        dense = twin(**shared).create()
        dense.create_impl(algo.impl.observation_shape, algo.impl.action_size)
    except Exception as error:  # an encoder that does not fit may fail on anything
        raise UsageError(
            f"{twin.__name__} cannot be built with the model's settings ({type(error).__name__}: "
            f"{error}); pass a dense model with --dense"
        ) from error
    return dense, notes


def _width(algo: Any) -> int:
    """Features of a token."""
    gpt: Any = next((part for part in network(algo).modules() if isinstance(part, GPT2)), None)
    found: int = (
        algo.impl.network.backbone.transformer.config.width
        if gpt is None
        else gpt._layer_norm.normalized_shape[0]
    )
    return found


def size_text(algo: Any) -> str:
    """The settings that make the size."""
    config = algo.config
    return (
        f"width: {_width(algo)}, layers: {config.num_layers}, heads: {config.num_heads}, context: "
        f"{config.context_size} steps"
    )
