"""Spiking policies for Stable-Baselines3: import this, then write "SpikingPopPolicy".

import sb3_spiking
from stable_baselines3 import TD3

model = TD3("SpikingPopPolicy", "Pendulum-v1").learn(10_000)
"""

from importlib.util import find_spec

import policies

if not getattr(policies, "SPIKING_CORE", False):
    raise ImportError(
        "sb3_spiking needs the package 'policies' that is installed with it, but found another one "
        f"at {getattr(policies, '__file__', None) or list(policies.__path__)}; rename that folder "
        "or file, or start Python from another directory"
    )
if find_spec("stable_baselines3") is None:
    raise ImportError(
        "sb3_spiking needs Stable-Baselines3: pip install 'spiking-policies[sb3]'", name=__name__
    )

from sb3_spiking.popsan import CheckpointError, load_popsan  # after the checks
from sb3_spiking.registry import (  # after the checks
    SpikingPopCnnLstmPolicy,
    SpikingPopCnnPolicy,
    SpikingPopLstmPolicy,
    SpikingPopMultiInputLstmPolicy,
    SpikingPopMultiInputPolicy,
    SpikingPopPolicy,
    register,
)
from sb3_spiking.snn_aware import SpikingDDPG, SpikingSAC, SpikingTD3  # after the checks

register()

__all__ = [
    "CheckpointError",
    "SpikingDDPG",
    "SpikingPopCnnLstmPolicy",
    "SpikingPopCnnPolicy",
    "SpikingPopLstmPolicy",
    "SpikingPopMultiInputLstmPolicy",
    "SpikingPopMultiInputPolicy",
    "SpikingPopPolicy",
    "SpikingSAC",
    "SpikingTD3",
    "load_popsan",
    "register",
]
