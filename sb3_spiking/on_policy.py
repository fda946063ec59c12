"""Spiking policies for PPO, A2C and their kin: a spiking actor beside SB3's own value network."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from policies.actor import PopulationBody
from policies.population import PopulationReadout
from policies.value import ValueReadout
from sb3_spiking.batch_norm import refuse_batch_norm
from sb3_spiking.event_driven import Decision, Finish
from sb3_spiking.faults import CheckedInput, check_finite_output
from sb3_spiking.learning_rate import ScaledOptimizer
from sb3_spiking.mixin import DictInput, ImageInput, SpikingPolicyMixin
from sb3_spiking.options import SpikingOptions

# What SB3 multiplies the action network's first weights by when ortho_init is set.
ACTION_GAIN = 0.01


def number_of_values(space: spaces.Space[Any]) -> int:
    """Values that an action distribution of this space reads: means, or logits."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    return get_action_dim(space)


class SpikingActorCritic(CheckedInput, ScaledOptimizer, SpikingPolicyMixin):
    """Put before an ActorCriticPolicy: spiking body and readout in place of its policy network.

    `mlp_extractor.policy_net` maps features to the activity of the output populations, and
    `action_net` reads a mean or logit from each population. With gSDE that activity is what the
    noise depends on. The value network is SB3's.

    An update must see each observation as its rollout did, or the probability ratio would not start
    at 1: the normalizer takes in new statistics between them only, and Poisson encoding is refused.
    """

    first_scaled_group = 1  # the dense networks' parameters stand before it

    def _check_options(self, options: SpikingOptions) -> None:
        if options.encoder == "poisson":
            raise ValueError(
                "encoder='poisson' draws anew in each forward, so on-policy algorithms would "
                "compare the probabilities of two different networks; use 'deterministic' or "
                "'analog'"
            )
        refuse_batch_norm(
            options, "an update would normalize by its batch, and see another policy than acted"
        )

    def _number_of_values(self) -> int:
        """Values that the action distribution reads."""
        policy: Any = self
        return number_of_values(policy.action_space)

    def _input_size(self) -> int:
        """Features that the policy and value networks see."""
        policy: Any = self
        size: int = policy.features_dim
        return size

    def _fix_bounds(self, body: PopulationBody) -> None:
        policy: Any = self
        self.options.fix_bounds(body, policy.observation_space, policy.features_extractor)

    def _build_mlp_extractor(self) -> None:
        policy: Any = self
        dense: Any = super()
        dense._build_mlp_extractor()
        extractor = policy.mlp_extractor
        arch = policy.net_arch
        actor_arch, value_arch = (
            (arch.get("pi", []), arch.get("vf", [])) if isinstance(arch, dict) else (arch, arch)
        )
        config = self.options.actor_config(actor_arch, squash=False, defer_normalizer=True)
        values = self._number_of_values()
        extractor.policy_net = PopulationBody(self._input_size(), values, config).to(policy.device)
        extractor.latent_dim_pi = values * config.decoder.pop_size
        bodies = [extractor.policy_net]
        if self.options.spiking_critic:
            config = self.options.value_config(value_arch, defer_normalizer=True)
            extractor.value_net = PopulationBody(self._input_size(), 1, config).to(policy.device)
            extractor.latent_dim_vf = config.decoder.pop_size
            bodies.append(extractor.value_net)
        for body in bodies:
            self._fix_bounds(body)

    def _build(self, lr_schedule: Schedule) -> None:
        policy: Any = self
        dense: Any = super()
        dense._build(lr_schedule)
        body: PopulationBody = policy.mlp_extractor.policy_net
        self._initialize(body)
        config = body.config
        values = self._number_of_values()
        readout = PopulationReadout(values, config.spike_steps, config.decoder, config.matmul)
        policy.action_net = readout.to(policy.device)
        if policy.ortho_init:
            with torch.no_grad():
                policy.action_net.weight.mul_(ACTION_GAIN)
                policy.action_net.bias.zero_()
        if self.options.spiking_critic:
            value_body: PopulationBody = policy.mlp_extractor.value_net
            self._initialize(value_body)
            neurons = value_body.config.decoder.pop_size
            policy.value_net = ValueReadout(neurons, gain=self.options.value_gain).to(policy.device)
        self._make_optimizer(lr_schedule)

    def _initialize(self, body: PopulationBody) -> None:
        """Give spiking layers their own initialization back."""
        policy: Any = self
        if policy.ortho_init:
            # SB3 has made them orthogonal, without biases: many would be silent.
            for linear in body.mlp.linears:
                assert isinstance(linear, nn.Linear)
                linear.reset_parameters()

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        policy: Any = self
        dense: Any = super()
        # Before torch's distributions, which name neither weights nor remedy.
        readout = policy.action_net
        check_finite_output(policy, latent_pi, readout.weight, readout.bias)
        return dense._get_action_dist_from_latent(latent_pi)

    def _make_optimizer(self, lr_schedule: Schedule) -> None:
        """SB3's optimizer with the spiking parameters in a group of their own."""
        policy: Any = self
        spiking = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
        own = {id(parameter) for parameter in spiking}
        dense = [parameter for parameter in policy.parameters() if id(parameter) not in own]
        groups = [{"params": dense}, {"params": spiking}]
        policy.optimizer = policy.optimizer_class(
            groups, lr=lr_schedule(1), **policy.optimizer_kwargs
        )
        self.scale_learning_rate()


class SpikingActorCriticPolicy(SpikingActorCritic, ActorCriticPolicy):
    """`"SpikingPopPolicy"` of PPO and A2C: population-coded spiking actor, dense values.

    Takes every keyword of ActorCriticPolicy with its meaning, and those of SpikingOptions.
    `net_arch` (or its "pi" part) gives the hidden spiking layers; `activation_fn` and the
    orthogonal part of `ortho_init` apply to the dense networks only. The actor's learning rate is
    `actor_lr_scale` times the algorithm's.

    Source: Tang et al. 2020 (PopSAN-PPO). Differs: no tanh on the mean, as SB3 clips actions.
    """

    def decision(self, deterministic: bool) -> Decision | None:
        """The mean, clipped, or the likeliest action."""
        finishes: dict[type, Finish] = {spaces.Box: "clip", spaces.Discrete: "class"}
        finish = finishes.get(type(self.action_space))
        if not deterministic or self.use_sde or finish is None:
            return None
        body: Any = self.mlp_extractor.policy_net
        return Decision(body, self.action_net, self.pi_features_extractor, finish)


class SpikingActorCriticMultiInputPolicy(DictInput, SpikingActorCriticPolicy):
    """`"SpikingPopMultiInputPolicy"`: Dict observations, as MultiInputPolicy."""


class SpikingActorCriticCnnPolicy(ImageInput, SpikingActorCriticPolicy):
    """`"SpikingPopCnnPolicy"`: a dense CNN in front of the spiking actor."""
