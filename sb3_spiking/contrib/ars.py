"""Spiking policy for ARS: random search around a spiking network's first weights."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.ars.policies import ARSPolicy
from torch import Tensor, nn

from policies.actor import PopulationActor
from sb3_spiking.batch_norm import refuse_batch_norm
from sb3_spiking.faults import CheckedInput
from sb3_spiking.mixin import SpikingPolicyMixin
from sb3_spiking.on_policy import number_of_values
from sb3_spiking.options import SpikingOptions

FLAT_REMEDY = (
    "ARS takes flat observations only: use another algorithm, or "
    "gymnasium.wrappers.FlattenObservation"
)


class SpikingARSPolicy(CheckedInput, SpikingPolicyMixin, ARSPolicy):
    """`"SpikingPopPolicy"` of ARS: a population-coded spiking network, searched without gradients.

    ARS searches from the zero vector on. Zero weights would silence every neuron, so the one
    parameter of this policy is the *change* of all spiking parameters from their random start:
    zero is that start, whether `zero_policy` is set or not. ARS throws away the policies that it
    tries, so statistics of observations cannot be learned here: `normalize_obs` is "bounds" by
    default. Where the observation space has none, wrap the environment in VecNormalize and set
    `normalize_obs=False`, as `python -m sb3_spiking.zoo` does.

    Takes every keyword of ARSPolicy but `with_bias=False`, and those of SpikingOptions.

    Raises:
        ValueError: if `with_bias` is False, the encoder draws, statistics or a spiking critic are
            asked for.
    """

    dict_remedy = FLAT_REMEDY
    image_remedy = FLAT_REMEDY
    default_options: ClassVar[Mapping[str, Any]] = {"normalize_obs": "bounds"}
    start: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if not kwargs.get("with_bias", True):
            raise ValueError("spiking layers always have biases: leave out with_bias=False")
        super().__init__(observation_space, action_space, *args, **kwargs)
        values = number_of_values(action_space)
        config = self.options.actor_config(self.net_arch, squash=self.squash_output)
        normalize = self.options.normalize_obs == "bounds"
        network = PopulationActor(self.features_dim, values, replace(config, normalize=normalize))
        self.options.fix_bounds(network, observation_space, self.features_extractor)
        # Buffers from here on, so that ARS finds nothing but the change to search in.
        self._tensors = [name for name, _ in network.named_parameters()]
        start = nn.utils.parameters_to_vector(network.parameters()).detach()
        for name in self._tensors:
            module_name, _, tensor_name = name.rpartition(".")
            module = network.get_submodule(module_name)
            tensor = network.get_parameter(name).detach()
            delattr(module, tensor_name)
            module.register_buffer(tensor_name, tensor)
        self.action_net = network  # type: ignore[assignment]  # an nn.Sequential with the same call
        self.register_buffer("start", start)
        self.change = nn.Parameter(torch.zeros_like(start), requires_grad=False)

    def load_from_vector(self, vector: NDArray[Any]) -> None:
        """Set the change [n_params]; ARS calls it for each candidate and after each update."""
        super().load_from_vector(vector)
        values = self.start + self.change
        for name in self._tensors:
            tensor = self.action_net.get_buffer(name)
            tensor.copy_(values[: tensor.numel()].view_as(tensor))
            values = values[tensor.numel() :]

    def _check_options(self, options: SpikingOptions) -> None:
        refuse_batch_norm(options, "ARS has no batches of observations that it learns from")
        if options.encoder == "poisson":
            raise ValueError(
                "encoder='poisson' draws anew in each step, so ARS would compare luck; use "
                "'deterministic' or 'analog'"
            )
        if options.normalize_obs is True:
            raise ValueError(
                "ARS throws away the policies that it tries, and their statistics with them: use "
                "normalize_obs='bounds', or VecNormalize and normalize_obs=False"
            )
        if options.spiking_critic:
            raise ValueError("ARS has no critic: leave out spiking_critic")
        options.refuse_penalty("ARS takes no gradients")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """As sb3-contrib's, which forgets `squash_output`."""
        return {**super()._get_constructor_parameters(), "squash_output": self.squash_output}
