"""The names under which Stable-Baselines3 finds the spiking policies."""

from typing import Any

from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.policies import BasePolicy

from sb3_spiking.on_policy import (
    SpikingActorCriticCnnPolicy,
    SpikingActorCriticMultiInputPolicy,
    SpikingActorCriticPolicy,
)
from sb3_spiking.sac import SpikingSACCnnPolicy, SpikingSACMultiInputPolicy, SpikingSACPolicy
from sb3_spiking.td3 import SpikingTD3CnnPolicy, SpikingTD3MultiInputPolicy, SpikingTD3Policy

# Strings, not classes: each algorithm has a class of its own behind the same name. RL Zoo's dotted
# form (policy: sb3_spiking.SpikingPopPolicy) resolves to them as well.
SpikingPopPolicy = "SpikingPopPolicy"
SpikingPopMultiInputPolicy = "SpikingPopMultiInputPolicy"
SpikingPopCnnPolicy = "SpikingPopCnnPolicy"


_ACTOR_CRITIC: tuple[type[BasePolicy], ...] = (
    SpikingActorCriticPolicy,
    SpikingActorCriticMultiInputPolicy,
    SpikingActorCriticCnnPolicy,
)
_NAMES = (SpikingPopPolicy, SpikingPopMultiInputPolicy, SpikingPopCnnPolicy)


def register() -> None:
    """Add the names to each algorithm; `import sb3_spiking` does it. A second call does nothing."""
    # DDPG shares TD3's table.
    families: list[tuple[Any, tuple[type[BasePolicy], ...]]] = [
        (TD3, (SpikingTD3Policy, SpikingTD3MultiInputPolicy, SpikingTD3CnnPolicy)),
        (PPO, _ACTOR_CRITIC),
        (A2C, _ACTOR_CRITIC),
        (SAC, (SpikingSACPolicy, SpikingSACMultiInputPolicy, SpikingSACCnnPolicy)),
    ]
    for algorithm, policies in families:
        for name, policy in zip(_NAMES, policies, strict=True):
            algorithm.policy_aliases.setdefault(name, policy)
