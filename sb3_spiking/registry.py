"""The names under which Stable-Baselines3 finds the spiking policies."""

from stable_baselines3 import TD3

from sb3_spiking.td3 import SpikingTD3CnnPolicy, SpikingTD3MultiInputPolicy, SpikingTD3Policy

# Strings, not classes: each algorithm has a class of its own behind the same name. RL Zoo's dotted
# form (policy: sb3_spiking.SpikingPopPolicy) resolves to them as well.
SpikingPopPolicy = "SpikingPopPolicy"
SpikingPopMultiInputPolicy = "SpikingPopMultiInputPolicy"
SpikingPopCnnPolicy = "SpikingPopCnnPolicy"


def register() -> None:
    """Add the names to each algorithm; `import sb3_spiking` does it. A second call does nothing."""
    # DDPG shares TD3's table.
    aliases = TD3.policy_aliases
    aliases.setdefault(SpikingPopPolicy, SpikingTD3Policy)
    aliases.setdefault(SpikingPopMultiInputPolicy, SpikingTD3MultiInputPolicy)
    aliases.setdefault(SpikingPopCnnPolicy, SpikingTD3CnnPolicy)
