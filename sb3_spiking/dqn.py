"""Spiking policies for DQN: the Q network itself spikes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor

from policies.value import ValueNetwork
from sb3_spiking.batch_norm import refuse_batch_norm
from sb3_spiking.event_driven import Decision
from sb3_spiking.faults import CheckedInput, check_finite_output
from sb3_spiking.learning_rate import ScaledOptimizer
from sb3_spiking.mixin import DictInput, ImageInput, SpikingPolicyMixin
from sb3_spiking.options import SpikingOptions


class SpikingQNetwork(CheckedInput, QNetwork):
    """DQN's Q network with a spiking network in place of the dense one.

    Args:
        net_arch: neurons of each hidden spiking layer; may be empty.
        **kwargs: as in QNetwork and in SpikingOptions.
    """

    q_net: ValueNetwork  # type: ignore[assignment]  # SB3's is an nn.Sequential with the same call

    def __init__(self, *, net_arch: list[int], **kwargs: Any) -> None:
        options, dense_kwargs = SpikingOptions.take_from(kwargs, super().__init__)
        # net_arch=[]: the dense network that SB3 builds here is replaced at once.
        super().__init__(net_arch=[], **dense_kwargs)
        self.net_arch = net_arch
        self.options = options
        values = int(self.action_space.n)
        self.q_net = options.value_network(self.features_dim, values, net_arch)
        options.fix_bounds(self.q_net, self.observation_space, self.features_extractor)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> Tensor:
        features = self.extract_features(observation, self.features_extractor)
        values: Tensor = self.q_net(features, deterministic)
        check_finite_output(self, values)
        return values.argmax(dim=1).reshape(-1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.options.as_kwargs()}


class SpikingDQNPolicy(ScaledOptimizer, SpikingPolicyMixin, DQNPolicy):
    """`"SpikingPopPolicy"` of DQN: population-coded spiking Q network, and its target.

    Takes every keyword of DQNPolicy with its meaning, and those of SpikingOptions. `net_arch` gives
    the hidden spiking layers; `activation_fn` has nothing to apply to. The learning rate is
    `actor_lr_scale` times the algorithm's. Values are learned over a whole run, in which
    statistics of a policy that improves drift: `normalize_obs` is "bounds" by default, and
    `encoder_pop_size` 15, since what a policy visits is less than what is possible.
    """

    default_options: ClassVar[Mapping[str, Any]] = {
        "normalize_obs": "bounds",
        "encoder_pop_size": 15,
    }

    def _check_options(self, options: SpikingOptions) -> None:
        options.refuse_for_values("DQN")
        refuse_batch_norm(options, "there is no actor, and values are not normalized by batches")

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.scale_learning_rate()

    def decision(self, deterministic: bool) -> Decision | None:
        """The largest value; DQN itself draws random actions."""
        network: Any = self.q_net
        return Decision(network.q_net, network.q_net.readout, network.features_extractor, "value")

    def make_q_net(self) -> SpikingQNetwork:
        """Build a spiking Q network; SB3 calls it for the network and for its target."""
        kwargs = self._update_features_extractor(self.net_args, features_extractor=None)
        return SpikingQNetwork(**kwargs, **self.options.as_kwargs()).to(self.device)


class SpikingDQNMultiInputPolicy(DictInput, SpikingDQNPolicy):
    """`"SpikingPopMultiInputPolicy"` of DQN: Dict observations, as MultiInputPolicy."""


class SpikingDQNCnnPolicy(ImageInput, SpikingDQNPolicy):
    """`"SpikingPopCnnPolicy"` of DQN: a dense CNN in front of the spiking Q network."""
