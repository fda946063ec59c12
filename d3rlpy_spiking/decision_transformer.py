"""Decision Transformers with d3rlpy's tokens and spiking blocks."""

import dataclasses
from typing import Any

from d3rlpy.algos import (
    DecisionTransformer,
    DecisionTransformerConfig,
    DiscreteDecisionTransformer,
    DiscreteDecisionTransformerConfig,
)
from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DecisionTransformerModules,
    DiscreteDecisionTransformerModules,
)
from d3rlpy.base import DeviceArg, register_learnable
from d3rlpy.models import EncoderFactory
from d3rlpy.models.torch.encoders import compute_output_size
from d3rlpy.models.utility import create_activation
from d3rlpy.types import Shape
from torch import nn

from d3rlpy_spiking.algorithm import SpikingTransformerAlgorithm, position_encoding
from d3rlpy_spiking.impl import (
    SpikingDecisionTransformerImpl,
    SpikingDiscreteDecisionTransformerImpl,
)
from d3rlpy_spiking.options import SpikingFields, check_config, core_config
from d3rlpy_spiking.transformer import (
    InterleavedContinuous,
    InterleavedDiscrete,
    SpikingBackbone,
    SpikingNetwork,
)

TOKENS_PER_STEP = 3


@dataclasses.dataclass()
class SpikingDecisionTransformerConfig(SpikingFields, DecisionTransformerConfig):
    """Decision Transformer with spiking blocks: every field of d3rlpy's config, and SpikingFields.

    Tokens (return-to-go, state and action of each step), embedding, loss and head are d3rlpy's;
    the blocks are DSFormer's. `activation_type` has no effect.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.

    Source: Chen et al. 2021 (Decision Transformer); Huang et al. 2025 (DSFormer).
    """

    def __post_init__(self) -> None:
        """Check every field."""
        check_config(self, uses_timesteps=True)

    def create(
        self, device: DeviceArg = False, enable_ddp: bool = False
    ) -> "SpikingDecisionTransformer":
        """The algorithm."""
        return SpikingDecisionTransformer(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "spiking_decision_transformer"


class SpikingDecisionTransformer(SpikingTransformerAlgorithm, DecisionTransformer):
    """See SpikingDecisionTransformerConfig."""

    def _build_network(self, observation_shape: Shape, action_size: int) -> SpikingNetwork:
        config = self._config
        return interleaved_network(config, config.encoder_factory, observation_shape, action_size)

    def _build_impl(
        self, module: nn.Module, observation_shape: Shape, action_size: int
    ) -> SpikingDecisionTransformerImpl:
        return continuous_impl(
            self, SpikingDecisionTransformerImpl, module, observation_shape, action_size
        )


@dataclasses.dataclass()
class DiscreteSpikingDecisionTransformerConfig(SpikingFields, DiscreteDecisionTransformerConfig):
    """As SpikingDecisionTransformerConfig, for discrete actions.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.
    """

    def __post_init__(self) -> None:
        """Check every field."""
        check_config(self, uses_timesteps=True)

    def create(
        self, device: DeviceArg = False, enable_ddp: bool = False
    ) -> "DiscreteSpikingDecisionTransformer":
        """The algorithm."""
        return DiscreteSpikingDecisionTransformer(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "discrete_spiking_decision_transformer"


class DiscreteSpikingDecisionTransformer(SpikingTransformerAlgorithm, DiscreteDecisionTransformer):
    """See DiscreteSpikingDecisionTransformerConfig."""

    def _build_network(self, observation_shape: Shape, action_size: int) -> SpikingNetwork:
        config = self._config
        encoder = config.encoder_factory.create(observation_shape)
        width = compute_output_size([observation_shape], encoder)
        network = InterleavedDiscrete(
            encoder=encoder,
            embed_size=width,
            position_encoding=position_encoding(config, width),
            action_size=action_size,
            embed_activation=create_activation(config.embed_activation_type),
            **_replaced_blocks(config),
        )
        network.put_backbone(_backbone(config, width, embed_ln=True))
        return network

    def _build_impl(
        self, module: nn.Module, observation_shape: Shape, action_size: int
    ) -> SpikingDiscreteDecisionTransformerImpl:
        return discrete_impl(
            self, SpikingDiscreteDecisionTransformerImpl, module, observation_shape, action_size
        )


def interleaved_network(
    config: Any, encoder_factory: EncoderFactory, observation_shape: Shape, action_size: int
) -> InterleavedContinuous:
    """d3rlpy's network for continuous actions with spiking blocks."""
    encoder = encoder_factory.create(observation_shape)
    width = compute_output_size([observation_shape], encoder)
    network = InterleavedContinuous(
        encoder=encoder,
        embed_size=width,
        position_encoding=position_encoding(config, width),
        action_size=action_size,
        **_replaced_blocks(config),
    )
    network.put_backbone(_backbone(config, width))
    return network


def _backbone(config: Any, width: int, embed_ln: bool = False) -> SpikingBackbone:
    core = core_config(config, width, TOKENS_PER_STEP)
    return SpikingBackbone(core, config.ptbn_steps, config.embed_dropout, embed_ln)


def _replaced_blocks(config: Any) -> dict[str, Any]:
    """What d3rlpy's network asks of its dense blocks; one small one is built and replaced."""
    return {
        "num_heads": 1,
        "context_size": config.context_size,
        "num_layers": 1,
        "attn_dropout": 0.0,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "activation": nn.Identity(),
    }


def continuous_impl(
    algo: Any,
    impl_class: type[SpikingDecisionTransformerImpl],
    module: nn.Module,
    observation_shape: Shape,
    action_size: int,
) -> SpikingDecisionTransformerImpl:
    """Optimizer and implementation around a network for continuous actions."""
    optim = algo.config.optim_factory.create(
        module.named_modules(), lr=algo.config.learning_rate, compiled=algo.compiled
    )
    return impl_class(
        observation_shape=observation_shape,
        action_size=action_size,
        modules=DecisionTransformerModules(transformer=module, optim=optim),
        device=algo._device,
        compiled=algo.compiled,
    )


def discrete_impl(
    algo: Any,
    impl_class: type[SpikingDiscreteDecisionTransformerImpl],
    module: nn.Module,
    observation_shape: Shape,
    action_size: int,
) -> SpikingDiscreteDecisionTransformerImpl:
    """Optimizer and implementation around a network for discrete actions."""
    config = algo.config
    optim = config.optim_factory.create(
        module.named_modules(), lr=config.learning_rate, compiled=algo.compiled
    )
    return impl_class(
        observation_shape=observation_shape,
        action_size=action_size,
        modules=DiscreteDecisionTransformerModules(transformer=module, optim=optim),
        warmup_tokens=config.warmup_tokens,
        final_tokens=config.final_tokens,
        initial_learning_rate=config.learning_rate,
        device=algo._device,
        compiled=algo.compiled,
    )


register_learnable(SpikingDecisionTransformerConfig)
register_learnable(DiscreteSpikingDecisionTransformerConfig)
