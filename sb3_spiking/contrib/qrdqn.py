"""Spiking policies for QR-DQN: the quantile network itself spikes."""

from typing import Any

from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from policies.value import ValueNetwork
from sb3_spiking.batch_norm import refuse_batch_norm
from sb3_spiking.dqn import SpikingDQNPolicy
from sb3_spiking.faults import CheckedInput, check_finite_output
from sb3_spiking.learning_rate import ScaledOptimizer
from sb3_spiking.mixin import DictInput, ImageInput, SpikingPolicyMixin
from sb3_spiking.options import SpikingOptions


class SpikingQuantileNetwork(CheckedInput, QuantileNetwork):
    """QR-DQN's network with a spiking network in place of the dense one.

    Args:
        net_arch: neurons of each hidden spiking layer; may be empty.
        **kwargs: as in QuantileNetwork and in SpikingOptions.
    """

    quantile_net: ValueNetwork  # type: ignore[assignment]  # an nn.Sequential with the same call

    def __init__(self, *, net_arch: list[int], **kwargs: Any) -> None:
        options, dense_kwargs = SpikingOptions.take_from(kwargs, super().__init__)
        # net_arch=[]: the dense network that SB3 builds here is replaced at once.
        super().__init__(net_arch=[], **dense_kwargs)
        self.net_arch = net_arch
        self.options = options
        values = int(self.action_space.n) * self.n_quantiles
        self.quantile_net = options.value_network(self.features_dim, values, net_arch)
        options.fix_bounds(self.quantile_net, self.observation_space, self.features_extractor)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> Tensor:
        features = self.extract_features(observation, self.features_extractor)
        quantiles: Tensor = self.quantile_net(features, deterministic)
        values = quantiles.view(-1, self.n_quantiles, int(self.action_space.n)).mean(dim=1)
        check_finite_output(self, values)
        return values.argmax(dim=1).reshape(-1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.options.as_kwargs()}


class SpikingQRDQNPolicy(ScaledOptimizer, SpikingPolicyMixin, QRDQNPolicy):
    """`"SpikingPopPolicy"` of QR-DQN: population-coded spiking quantile network, and its target.

    Takes every keyword of QRDQNPolicy with its meaning, and those of SpikingOptions. `net_arch`
    gives the hidden spiking layers; `activation_fn` has nothing to apply to. The learning rate is
    `actor_lr_scale` times the algorithm's. Defaults are those of DQN's.
    """

    default_options = SpikingDQNPolicy.default_options

    def _check_options(self, options: SpikingOptions) -> None:
        options.refuse_for_values("QR-DQN")
        refuse_batch_norm(options, "there is no actor, and values are not normalized by batches")

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.scale_learning_rate()

    def make_quantile_net(self) -> SpikingQuantileNetwork:
        """Build a spiking network; SB3 calls it for the network and for its target."""
        kwargs = self._update_features_extractor(self.net_args, features_extractor=None)
        return SpikingQuantileNetwork(**kwargs, **self.options.as_kwargs()).to(self.device)


class SpikingQRDQNMultiInputPolicy(DictInput, SpikingQRDQNPolicy):
    """`"SpikingPopMultiInputPolicy"` of QR-DQN: Dict observations, as MultiInputPolicy."""


class SpikingQRDQNCnnPolicy(ImageInput, SpikingQRDQNPolicy):
    """`"SpikingPopCnnPolicy"` of QR-DQN: a dense CNN in front of the spiking network."""
