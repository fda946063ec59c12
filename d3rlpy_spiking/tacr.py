"""TACR with a spiking actor."""

import dataclasses
from typing import Any

from d3rlpy.algos import TACR, TACRConfig
from d3rlpy.algos.transformer.torch.tacr_impl import TACRModules
from d3rlpy.base import DeviceArg, register_learnable
from d3rlpy.models.builders import create_continuous_q_function
from d3rlpy.types import Shape
from torch import nn

from d3rlpy_spiking.algorithm import SpikingTransformerAlgorithm
from d3rlpy_spiking.decision_transformer import interleaved_network
from d3rlpy_spiking.impl import SpikingTACRImpl
from d3rlpy_spiking.options import SpikingFields, check_config
from d3rlpy_spiking.transformer import SpikingNetwork


@dataclasses.dataclass()
class SpikingTACRConfig(SpikingFields, TACRConfig):
    """d3rlpy's TACR with a spiking Decision Transformer as actor and its own dense critics.

    Every field of d3rlpy's config; `activation_type` has no effect.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if a field is out of range.
    """

    def __post_init__(self) -> None:
        """Check every field."""
        check_config(self, uses_timesteps=True)

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> "SpikingTACR":
        """The algorithm."""
        return SpikingTACR(self, device, enable_ddp)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "spiking_tacr"


class SpikingTACR(SpikingTransformerAlgorithm, TACR):
    """See SpikingTACRConfig."""

    def _build_network(self, observation_shape: Shape, action_size: int) -> SpikingNetwork:
        config = self._config
        return interleaved_network(
            config, config.actor_encoder_factory, observation_shape, action_size
        )

    def _build_impl(
        self, module: nn.Module, observation_shape: Shape, action_size: int
    ) -> SpikingTACRImpl:
        config = self._config
        q_funcs, q_forwarder = self._critics(observation_shape, action_size)
        targ_q_funcs, targ_q_forwarder = self._critics(observation_shape, action_size)
        modules = TACRModules(
            transformer=module,
            actor_optim=config.actor_optim_factory.create(
                module.named_modules(), lr=config.actor_learning_rate, compiled=self.compiled
            ),
            q_funcs=q_funcs,
            targ_q_funcs=targ_q_funcs,
            critic_optim=config.critic_optim_factory.create(
                q_funcs.named_modules(), lr=config.critic_learning_rate, compiled=self.compiled
            ),
        )
        return SpikingTACRImpl(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=modules,
            q_func_forwarder=q_forwarder,
            targ_q_func_forwarder=targ_q_forwarder,
            alpha=config.alpha,
            gamma=config.gamma,
            tau=config.tau,
            target_smoothing_sigma=config.target_smoothing_sigma,
            target_smoothing_clip=config.target_smoothing_clip,
            device=self._device,
            compiled=self.compiled,
        )

    def _critics(self, observation_shape: Shape, action_size: int) -> tuple[Any, Any]:
        config = self._config
        critics: tuple[Any, Any] = create_continuous_q_function(
            observation_shape,
            action_size,
            config.critic_encoder_factory,
            config.q_func_factory,
            n_ensembles=config.n_critics,
            device=self._device,
            enable_ddp=False,  # averaged without d3rlpy's wrapper
        )
        return critics


register_learnable(SpikingTACRConfig)
