"""TD3, DDPG and SAC with what is known to help spiking actors switched on.

Each part is a keyword of policy_kwargs of its own, so the stock algorithms train with it as well:
these classes only choose it. What they save, the stock algorithm loads.
"""

from typing import Any

from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

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
        ValueError: if policy is the name of a dense one.
    """

    def __init__(
        self,
        policy: Any = SpikingPopPolicy,
        env: Any = None,
        *args: Any,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(policy, str) and policy in SPIKING_NAMES:
            raise ValueError(
                f"{type(self).__name__} trains spiking policies, got {policy!r}; use "
                f"{SPIKING_NAMES[policy]!r}, or {type(self).__name__.removeprefix('Spiking')} for "
                "the dense one"
            )
        kwargs["policy_kwargs"] = {**RECIPE, **(policy_kwargs or {})}
        super().__init__(policy, env, *args, **kwargs)


class SpikingTD3(SNNAware, TD3):
    """TD3 with a proxy target."""


class SpikingDDPG(SNNAware, DDPG):
    """DDPG with a proxy target."""


class SpikingSAC(SNNAware, SAC):
    """SAC with a proxy target: a dense network that copies the actor's Gaussian gives targets."""
