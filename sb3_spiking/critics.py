"""Critics for continuous actions: SB3's dense ones, checked, or spiking."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_spiking.faults import CheckedInput
from sb3_spiking.options import SpikingOptions


class CheckedCritic(CheckedInput, ContinuousCritic):
    """SB3's dense critic, which refuses NaN and infinite observations."""


class SpikingCriticNetworks(CheckedInput):
    """Put before a critic class with networks qf0, qf1, ...: each of them spikes.

    A network sees features and actions side by side, z-scored by statistics of its own. It never
    draws: "poisson" is "deterministic" here.

    Args:
        net_arch: neurons of each hidden spiking layer; may be empty.
        spiking: the policy's options.
        values: values that each network gives.
        **kwargs: as in the dense critic.
    """

    def __init__(
        self, *, net_arch: list[int], spiking: SpikingOptions, values: int = 1, **kwargs: Any
    ) -> None:
        dense: Any = super()
        # net_arch=[]: the dense networks that SB3 builds here are replaced at once.
        dense.__init__(net_arch=[], **kwargs)
        critic: Any = self
        if spiking.encoder == "poisson":
            spiking = replace(spiking, encoder="deterministic")
        size = kwargs["features_dim"] + get_action_dim(critic.action_space)
        for index in range(len(critic.q_networks)):
            network = spiking.value_network(size, values, net_arch)
            setattr(critic, f"qf{index}", network)
            critic.q_networks[index] = network

    def forward(self, obs: PyTorchObs, actions: Tensor) -> Any:
        """As the dense critic's; the statistics learn from replayed actions, not the actor's."""
        dense: Any = super()
        with self._frozen_statistics(actions.requires_grad):
            return dense.forward(obs, actions)

    def q1_forward(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """As the dense critic's; the actor's loss calls it."""
        dense: Any = super()
        with self._frozen_statistics(True):
            values: Tensor = dense.q1_forward(obs, actions)
        return values

    @contextmanager
    def _frozen_statistics(self, frozen: bool) -> Iterator[None]:
        critic: Any = self
        normalizers = [network.normalizer for network in critic.q_networks if network.normalizer]
        try:
            for normalizer in normalizers:
                normalizer.frozen = frozen
            yield
        finally:
            for normalizer in normalizers:
                normalizer.frozen = False


class SpikingCritic(SpikingCriticNetworks, ContinuousCritic):
    """The critic of TD3, DDPG and SAC with spiking networks."""


def make_continuous_critic(kwargs: dict[str, Any], options: SpikingOptions) -> ContinuousCritic:
    """The critic that the options ask for, from the keywords of SB3's."""
    if options.spiking_critic:
        return SpikingCritic(spiking=options, **kwargs)
    return CheckedCritic(**kwargs)
