"""The part of a policy that acts: observations to values, spiking or dense, critics left out."""

import copy
from typing import Any

from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from policies.actor import PopulationBody
from sb3_spiking.saved.errors import UsageError

Inputs = tuple[Any, ...]


def is_spiking(policy: nn.Module) -> bool:
    """Whether a policy holds a population-coded spiking network."""
    return any(isinstance(module, PopulationBody) for module in policy.modules())


class ActingNetwork(nn.Module):
    """What one decision of a policy runs through: extractor, LSTM if it has one, body, readout.

    SAC and its kin act by the mean, so the layer that reads the deviation is not in it.

    Args:
        policy: of any algorithm of Stable-Baselines3 or sb3-contrib.

    Raises:
        UsageError: if the policy is of a kind that is not known.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.space = policy.observation_space
        self.normalize_images = policy.normalize_images
        extractor, body, readout = _parts(policy)
        self.extractor: nn.Module = extractor
        self.lstm: nn.Module | None = getattr(policy, "lstm_actor", None)
        self.body: nn.Module = body
        self.readout: nn.Module | None = readout

    @property
    def is_recurrent(self) -> bool:
        """Whether it keeps states between decisions."""
        return self.lstm is not None

    def spiking_bodies(self) -> list[PopulationBody]:
        """The spiking networks in it; none in a dense policy."""
        return [module for module in self.modules() if isinstance(module, PopulationBody)]

    def features(
        self, obs: Any, hidden: Tensor | None = None, cell: Tensor | None = None
    ) -> Tensor:
        """What the body sees of observations as the environment gives them, [B, F].

        Args:
            obs: tensor [B, ...], or a dictionary of such.
            hidden: hidden state of the LSTM, [layers, B, H].
            cell: its cell state.
        """
        x: Tensor = self.extractor(preprocess_obs(obs, self.space, self.normalize_images))
        if self.lstm is not None:
            x = self.lstm(x.unsqueeze(0), (hidden, cell))[0].squeeze(0)
        return x

    def forward(self, obs: Any, hidden: Tensor | None = None, cell: Tensor | None = None) -> Tensor:
        """Values of observations; arguments as in `features`."""
        x = self.features(obs, hidden, cell)
        # True: no Poisson draws, as in a deterministic `predict`.
        x = self.body(x, True) if isinstance(self.body, PopulationBody) else self.body(x)
        values: Tensor = x if self.readout is None else self.readout(x)
        return values


def _parts(policy: Any) -> tuple[Any, Any, Any]:
    """Extractor, body and readout of a policy."""
    if hasattr(policy, "actor"):
        actor = policy.actor
        if hasattr(actor, "latent_pi"):
            return actor.features_extractor, actor.latent_pi, actor.mu
        return actor.features_extractor, actor.mu, None
    for name, inner in (("q_net", "q_net"), ("quantile_net", "quantile_net")):
        if hasattr(policy, name):
            network = getattr(policy, name)
            return network.features_extractor, getattr(network, inner), None
    if hasattr(policy, "mlp_extractor"):
        return policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net
    if hasattr(policy, "action_net"):
        return policy.features_extractor, _with_parameters(policy), None
    raise UsageError(
        f"{type(policy).__name__} is a policy of an unknown kind: what acts in it is known for "
        "those of TD3, DDPG, SAC, TQC, CrossQ, PPO, A2C, TRPO, MaskablePPO, RecurrentPPO, DQN, "
        "QR-DQN and ARS"
    )


def _with_parameters(policy: Any) -> nn.Module:
    """ARS's network; the spiking one's weights are buffers, here they are parameters again."""
    network: nn.Module = policy.action_net
    names = getattr(policy, "_tensors", [])
    if not names:
        return network
    network = copy.deepcopy(network)
    for name in names:
        module_name, _, tensor_name = name.rpartition(".")
        module = network.get_submodule(module_name)
        tensor = network.get_buffer(name)
        delattr(module, tensor_name)
        module.register_parameter(tensor_name, nn.Parameter(tensor, requires_grad=False))
    return network
