"""DSFormer: one token per environment step, spiking attention without softmax, PTBN."""

import dataclasses
from typing import Any

from d3rlpy.algos import (
    DecisionTransformer,
    DecisionTransformerConfig,
    DiscreteDecisionTransformer,
    DiscreteDecisionTransformerConfig,
)
from d3rlpy.base import DeviceArg, register_learnable
from d3rlpy.models import EncoderFactory, VectorEncoderFactory
from d3rlpy.models.torch.encoders import compute_output_size
from d3rlpy.models.utility import create_activation
from d3rlpy.optimizers import AdamWFactory, OptimizerFactory, WarmupSchedulerFactory
from d3rlpy.types import Shape
from torch import nn

from d3rlpy_spiking.algorithm import SpikingTransformerAlgorithm, position_encoding
from d3rlpy_spiking.decision_transformer import continuous_impl, discrete_impl
from d3rlpy_spiking.impl import DiscreteJointTokenImpl, JointTokenImpl
from d3rlpy_spiking.options import SpikingFields, check_config, core_config
from d3rlpy_spiking.transformer import JointTokenTransformer, SpikingBackbone


def _like(field: str) -> Any:
    """Metadata of d3rlpy's field: how it is written to and read from a config file."""
    fields = dataclasses.fields(DecisionTransformerConfig)
    return next(f.metadata for f in fields if f.name == field)


def linear_encoder() -> EncoderFactory:
    """One linear layer of 256 features without activation: DSFormer's embedding of the state."""
    return VectorEncoderFactory(hidden_units=[256], exclude_last_activation=True)


def dsformer_optimizer() -> OptimizerFactory:
    """AdamW, weight decay 1e-4, gradient norm 0.25, 2,000 steps of warm-up: as released.

    The release's cosine to 0 needs the number of steps: see `WarmupCosineFactory`.
    """
    return AdamWFactory(
        weight_decay=1e-4,
        clip_grad_norm=0.25,
        lr_scheduler_factory=WarmupSchedulerFactory(warmup_steps=2000),
    )


@dataclasses.dataclass()
class JointTokenFields(SpikingFields):
    """Fields of networks with one token per environment step."""

    # add an embedding of the timestep, of position_encoding_type; DSFormer has none
    timestep_embedding: bool = False
    # a padded step's action does not reach the token after it; DSFormer's release lets it
    mask_previous_action: bool = True
    # the token of a step holds the action before it, as DSFormer's; without it a network cannot
    # learn to repeat its own actions, mistakes included
    previous_action: bool = True

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("timestep_embedding", "mask_previous_action", "previous_action"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_config(self, uses_timesteps=self.timestep_embedding)


@dataclasses.dataclass()
class DSFormerConfig(JointTokenFields, DecisionTransformerConfig):
    """DSFormer for continuous actions in [-1, 1]: every field of d3rlpy's Decision Transformer.

    The defaults are those of its training script: width 256, 3 layers, 1 head, context 20, 4 spike
    steps, window 8, learning rate 1e-4, no dropout. The width is the encoder's output size. With
    the encoder linear, as by default, state, previous action and return-to-go pass one linear
    layer, as released; any other encoder embeds the state alone. The loss is the mean over tokens
    that exist. `position_encoding_type` matters with `timestep_embedding` only, `activation_type`
    never.

    Departures from the release, each an option: it has `mix_surrogate_width=1.0` (its attention
    gets no gradient at first), `mask_statistics=False`, `mask_previous_action=False` and
    `normalization="tdln"` (not the paper's). Its other norm is `advanced_norm`; `branch_gain=0.707`
    is what it means to set. PTBN's theta follows gradient steps, not forwards.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.

    Source: Huang et al. 2025 (DSFormer) and its released code.
    """

    encoder_factory: EncoderFactory = dataclasses.field(
        default_factory=linear_encoder, metadata=_like("encoder_factory")
    )
    optim_factory: OptimizerFactory = dataclasses.field(
        default_factory=dsformer_optimizer, metadata=_like("optim_factory")
    )
    attn_dropout: float = 0.0
    resid_dropout: float = 0.0
    embed_dropout: float = 0.0

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> "DSFormer":
        """The algorithm."""
        return DSFormer(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "spiking_dsformer"


class DSFormer(SpikingTransformerAlgorithm, DecisionTransformer):
    """See DSFormerConfig."""

    @property
    def uses_timesteps(self) -> bool:  # type: ignore[override]  # decided by the config
        """Whether timesteps are embedded."""
        return bool(self._config.timestep_embedding)

    def _build_network(self, observation_shape: Shape, action_size: int) -> JointTokenTransformer:
        return joint_token_network(self._config, observation_shape, action_size, discrete=False)

    def _build_impl(
        self, module: nn.Module, observation_shape: Shape, action_size: int
    ) -> JointTokenImpl:
        impl = continuous_impl(self, JointTokenImpl, module, observation_shape, action_size)
        assert isinstance(impl, JointTokenImpl)
        return impl


@dataclasses.dataclass()
class DiscreteDSFormerConfig(JointTokenFields, DiscreteDecisionTransformerConfig):
    """As DSFormerConfig, for discrete actions: every field of d3rlpy's discrete config.

    Embeddings pass `embed_activation_type`, and the learning rate follows d3rlpy's schedule by
    tokens. The loss is the mean cross-entropy over tokens that exist.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.
    """

    encoder_factory: EncoderFactory = dataclasses.field(
        default_factory=linear_encoder, metadata=_like("encoder_factory")
    )
    attn_dropout: float = 0.0
    resid_dropout: float = 0.0
    embed_dropout: float = 0.0

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> "DiscreteDSFormer":
        """The algorithm."""
        return DiscreteDSFormer(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "discrete_spiking_dsformer"


class DiscreteDSFormer(SpikingTransformerAlgorithm, DiscreteDecisionTransformer):
    """See DiscreteDSFormerConfig."""

    @property
    def uses_timesteps(self) -> bool:  # type: ignore[override]  # decided by the config
        """Whether timesteps are embedded."""
        return bool(self._config.timestep_embedding)

    def _build_network(self, observation_shape: Shape, action_size: int) -> JointTokenTransformer:
        return joint_token_network(self._config, observation_shape, action_size, discrete=True)

    def _build_impl(
        self, module: nn.Module, observation_shape: Shape, action_size: int
    ) -> DiscreteJointTokenImpl:
        impl = discrete_impl(self, DiscreteJointTokenImpl, module, observation_shape, action_size)
        assert isinstance(impl, DiscreteJointTokenImpl)
        return impl


def joint_token_network(
    config: Any, observation_shape: Shape, action_size: int, *, discrete: bool
) -> JointTokenTransformer:
    """The network of a config with JointTokenFields."""
    encoder = config.encoder_factory.create(observation_shape)
    width = compute_output_size([observation_shape], encoder)
    backbone = SpikingBackbone(
        core_config(config, width, 1), config.ptbn_steps, config.embed_dropout
    )
    activation = getattr(config, "embed_activation_type", None)
    return JointTokenTransformer(
        encoder,
        action_size,
        backbone,
        discrete=discrete,
        position_encoding=position_encoding(config, width) if config.timestep_embedding else None,
        embed_activation=create_activation(activation) if activation is not None else None,
        mask_previous_action=config.mask_previous_action,
        previous_action=config.previous_action,
    )


register_learnable(DSFormerConfig)
register_learnable(DiscreteDSFormerConfig)
