"""One pass through a policy, as one module: observations in, actions out."""

from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_spiking.acting import is_spiking


class PolicyPass(nn.Module):
    """A policy's deterministic decision, through everything it computes on the way.

    `sb3_spiking.acting.ActingNetwork` holds what the decision needs, and no more.

    Args:
        policy: any policy of Stable-Baselines3 or sb3-contrib, spiking or dense.
        critics: judge the actions too, where critics spike.
    """

    def __init__(self, policy: BasePolicy, *, critics: bool = False) -> None:
        super().__init__()
        self.policy = policy
        self._critics = critics

    def forward(self, obs: PyTorchObs, memory: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Actions as the policy's `_predict` gives them.

        Args:
            obs: observations [B, ...].
            memory: of a recurrent policy, its LSTM's hidden and cell state before each
                observation, [layers, B, hidden] each; None: empty, as when an episode begins.
        """
        policy: Any = self.policy
        if hasattr(policy, "lstm_hidden_state_shape"):
            return self._recurrent(obs, memory)
        actions: Tensor = policy._predict(obs, deterministic=True)
        if self._critics:
            self._judge(obs, actions)
        return actions

    def _judge(self, obs: PyTorchObs, actions: Tensor) -> None:
        policy: Any = self.policy
        critic = getattr(policy, "critic", None)
        if critic is not None and is_spiking(critic):
            critic(obs, actions.detach())
        elif self._judges_values():
            policy.predict_values(obs)

    def _judges_values(self) -> bool:
        value_net = getattr(getattr(self.policy, "mlp_extractor", None), "value_net", None)
        return value_net is not None and is_spiking(value_net)

    def _recurrent(self, obs: PyTorchObs, memory: tuple[Tensor, Tensor] | None) -> Tensor:
        policy: Any = self.policy
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        size = first.shape[0]
        layers, _, hidden = policy.lstm_hidden_state_shape
        if memory is None:
            zeros = torch.zeros(layers, size, hidden, device=first.device)
            memory = (zeros, zeros)
        starts = torch.zeros(size, device=first.device)  # 1 would clear the memory
        if self._critics and self._judges_values():
            policy.predict_values(obs, memory, starts)
        distribution, _ = policy.get_distribution(obs, memory, starts)
        actions: Tensor = distribution.get_actions(deterministic=True)
        return actions
