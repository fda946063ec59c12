"""The names under which Stable-Baselines3 finds the spiking policies."""

from importlib.util import find_spec
from typing import Any

from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import BasePolicy

from sb3_spiking.dqn import SpikingDQNCnnPolicy, SpikingDQNMultiInputPolicy, SpikingDQNPolicy
from sb3_spiking.on_policy import (
    SpikingActorCriticCnnPolicy,
    SpikingActorCriticMultiInputPolicy,
    SpikingActorCriticPolicy,
)
from sb3_spiking.refusals import refusal
from sb3_spiking.sac import SpikingSACCnnPolicy, SpikingSACMultiInputPolicy, SpikingSACPolicy
from sb3_spiking.td3 import SpikingTD3CnnPolicy, SpikingTD3MultiInputPolicy, SpikingTD3Policy

# Strings, not classes: each algorithm has a class of its own behind the same name. RL Zoo's dotted
# form (policy: sb3_spiking.SpikingPopPolicy) resolves to them as well.
SpikingPopPolicy = "SpikingPopPolicy"
SpikingPopMultiInputPolicy = "SpikingPopMultiInputPolicy"
SpikingPopCnnPolicy = "SpikingPopCnnPolicy"
SpikingPopLstmPolicy = "SpikingPopLstmPolicy"
SpikingPopMultiInputLstmPolicy = "SpikingPopMultiInputLstmPolicy"
SpikingPopCnnLstmPolicy = "SpikingPopCnnLstmPolicy"

FEED_FORWARD = (SpikingPopPolicy, SpikingPopMultiInputPolicy, SpikingPopCnnPolicy)
RECURRENT = (SpikingPopLstmPolicy, SpikingPopMultiInputLstmPolicy, SpikingPopCnnLstmPolicy)

# What takes the place of a dense policy's name.
SPIKING_NAMES = {
    "MlpPolicy": SpikingPopPolicy,
    "LinearPolicy": SpikingPopPolicy,
    "MultiInputPolicy": SpikingPopMultiInputPolicy,
    "CnnPolicy": SpikingPopCnnPolicy,
    "MlpLstmPolicy": SpikingPopLstmPolicy,
    "MultiInputLstmPolicy": SpikingPopMultiInputLstmPolicy,
    "CnnLstmPolicy": SpikingPopCnnLstmPolicy,
}

Policies = tuple[type[BasePolicy], ...]
_ACTOR_CRITIC: Policies = (
    SpikingActorCriticPolicy,
    SpikingActorCriticMultiInputPolicy,
    SpikingActorCriticCnnPolicy,
)


def register() -> None:
    """Add the names to each algorithm; `import sb3_spiking` does it. A second call does nothing.

    sb3-contrib's algorithms are left out where it is not installed.
    """
    # DDPG shares TD3's table.
    _add(TD3, (SpikingTD3Policy, SpikingTD3MultiInputPolicy, SpikingTD3CnnPolicy))
    _add(SAC, (SpikingSACPolicy, SpikingSACMultiInputPolicy, SpikingSACCnnPolicy))
    _add(DQN, (SpikingDQNPolicy, SpikingDQNMultiInputPolicy, SpikingDQNCnnPolicy))
    _add(PPO, _ACTOR_CRITIC)
    _add(A2C, _ACTOR_CRITIC)
    if find_spec("sb3_contrib") is not None:
        _register_contrib()


def _register_contrib() -> None:
    import sb3_contrib as contrib

    from sb3_spiking.contrib import ars, crossq, maskable, qrdqn, recurrent, tqc, trpo

    _add(
        contrib.TQC, (tqc.SpikingTQCPolicy, tqc.SpikingTQCMultiInputPolicy, tqc.SpikingTQCCnnPolicy)
    )
    _add(
        contrib.QRDQN,
        (
            qrdqn.SpikingQRDQNPolicy,
            qrdqn.SpikingQRDQNMultiInputPolicy,
            qrdqn.SpikingQRDQNCnnPolicy,
        ),
    )
    _add(
        contrib.TRPO,
        (trpo.SpikingTRPOPolicy, trpo.SpikingTRPOMultiInputPolicy, trpo.SpikingTRPOCnnPolicy),
    )
    _add(
        contrib.MaskablePPO,
        (
            maskable.SpikingMaskableActorCriticPolicy,
            maskable.SpikingMaskableActorCriticMultiInputPolicy,
            maskable.SpikingMaskableActorCriticCnnPolicy,
        ),
    )
    lstm: Policies = (
        recurrent.SpikingRecurrentActorCriticPolicy,
        recurrent.SpikingRecurrentActorCriticMultiInputPolicy,
        recurrent.SpikingRecurrentActorCriticCnnPolicy,
    )
    _add(contrib.RecurrentPPO, lstm, RECURRENT)
    _add(contrib.RecurrentPPO, lstm)
    _add(
        contrib.CrossQ,
        (crossq.SpikingCrossQPolicy, refusal(crossq.DICT_REMEDY), crossq.SpikingCrossQCnnPolicy),
    )
    flat = refusal(ars.FLAT_REMEDY)
    _add(contrib.ARS, (ars.SpikingARSPolicy, flat, flat))


def _add(algorithm: Any, policies: Policies, names: tuple[str, ...] = FEED_FORWARD) -> None:
    known_as = "TD3 (and DDPG)" if algorithm is TD3 else algorithm.__name__
    for name, policy in zip(names, policies, strict=True):
        algorithm.policy_aliases.setdefault(name, policy)
    for name in RECURRENT:
        remedy = name.replace("Lstm", "")
        algorithm.policy_aliases.setdefault(
            name,
            refusal(
                f"{name} belongs to RecurrentPPO (sb3-contrib); {known_as} keeps no "
                f"memory over an episode: use '{remedy}', or RecurrentPPO"
            ),
        )
