"""TD3, DDPG and SAC with what is known to help spiking actors switched on.

Each part is a keyword of policy_kwargs of its own, so the stock algorithms train with it as well:
these classes only choose it. What they save, the stock algorithm loads.
"""

import warnings
from typing import Any, Self

from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_spiking.mixin import SpikingPolicyMixin
from sb3_spiking.registry import SPIKING_NAMES, SpikingPopPolicy

# What the constructors write into policy_kwargs where the user has not.
RECIPE: dict[str, Any] = {"proxy_target": True}


class SNNAware(BaseAlgorithm):
    """Put before an algorithm's class: RECIPE is the default of its policy_kwargs.

    Args:
        policy: a spiking policy's name or class; default "SpikingPopPolicy".
        env: environment, as in the algorithm's class.
        *args: as in the algorithm's class.
        policy_kwargs: see SpikingOptions; what is given here goes before RECIPE.
        **kwargs: as in the algorithm's class.

    Raises:
        ValueError: if policy is a dense one.
        TypeError: without an environment.
    """

    def __init__(
        self,
        policy: Any = SpikingPopPolicy,
        env: Any = None,
        *args: Any,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if env is None and kwargs.get("_init_setup_model", True):
            raise TypeError(f"{type(self).__name__} needs an environment, got env=None")
        if isinstance(policy, type) and not issubclass(policy, SpikingPolicyMixin):
            raise ValueError(
                f"{type(self).__name__} trains spiking policies, got {policy.__name__}; use "
                f"'SpikingPopPolicy', or {type(self).__name__.removeprefix('Spiking')} for this one"
            )
        if isinstance(policy, str) and policy in SPIKING_NAMES:
            raise ValueError(
                f"{type(self).__name__} trains spiking policies, got {policy!r}; use "
                f"{SPIKING_NAMES[policy]!r}, or {type(self).__name__.removeprefix('Spiking')} for "
                "the dense one"
            )
        kwargs["policy_kwargs"] = {**RECIPE, **(policy_kwargs or {})}
        super().__init__(policy, env, *args, **kwargs)

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Self:
        """As the algorithm's; warns of a file without what this class switches on."""
        model = super().load(*args, **kwargs)
        if model.policy_kwargs.get("proxy_target") is None:
            stock = cls.__name__.removeprefix("Spiking")
            warnings.warn(
                f"this file was saved by {stock} without a proxy target, and goes on without one: "
                f"load it with {stock}, or train anew with {cls.__name__}",
                stacklevel=2,
            )
        return model


class SpikingTD3(SNNAware, TD3):
    """TD3 with a proxy target."""


class SpikingDDPG(SNNAware, DDPG):
    """DDPG with a proxy target."""


class SpikingSAC(SNNAware, SAC):
    """SAC with a proxy target: a dense network that copies the actor's Gaussian gives targets."""
