"""Spiking networks for control: composition of coding, linear layers and neurons."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from policies.checks import fault_mark
from policies.config import CurrentLIFConfig, NeuronConfig, PopulationActorConfig
from policies.neurons import make_neuron
from policies.normalizer import RunningNormalizer
from policies.population import PopulationDecoder, PopulationEncoder, population_activity


class SpikingMLP(nn.Module):
    """A feed-forward stack of (Linear -> spiking neuron): spikes [T, B, in] -> spikes [T, B, out].

    All T spike steps of a layer go through one matmul; state starts at 0 in every call.

    Args:
        sizes: neurons of the input and of each layer, at least two numbers.
        neuron: settings of every layer's neurons.

    Raises:
        ValueError: if fewer than two sizes are given.
    """

    def __init__(self, sizes: Sequence[int], neuron: NeuronConfig | None = None) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must name the input and at least one layer, got {list(sizes)}")
        neuron = CurrentLIFConfig() if neuron is None else neuron
        self.linears = nn.ModuleList(
            nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes)
        )
        self.neurons = nn.ModuleList(make_neuron(neuron) for _ in sizes[1:])

    def forward(self, spikes_seq: Tensor) -> Tensor:
        """Propagate a spike train through all layers.

        Samples with a NaN or infinite membrane in any layer come out as NaN.
        """
        if spikes_seq.dim() != 3:
            raise ValueError(
                f"spikes_seq must be [T, B, N] (time first), got {tuple(spikes_seq.shape)}"
            )
        fault: Tensor | float = 0.0
        for linear, neuron in zip(self.linears, self.neurons, strict=True):
            current_seq = linear(spikes_seq.flatten(0, 1))  # [T, B, in] -> [T * B, out]
            spikes_seq, state = neuron(current_seq.unflatten(0, spikes_seq.shape[:2]))
            # A membrane that broke at any step is still broken after the last.
            fault = fault + fault_mark(state.v)
        return spikes_seq + fault


class PopulationBody(nn.Module):
    """Everything of a population-coded actor but its readout: obs [B, obs_dim] -> activity [B, N].

    N = action_dim * P output neurons. In training mode and with gradients on, each call first
    merges its batch into the normalizer's statistics, much as batch normalization does; the result
    never uses batch statistics.

    Args:
        obs_dim: observation dimensions, >= 1.
        action_dim: values that will be read, >= 1.
        config: everything else.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, config: PopulationActorConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config = PopulationActorConfig() if config is None else config
        self.normalizer = (
            RunningNormalizer(
                obs_dim, clip=config.encoder.field_range, deferred=config.defer_normalizer
            )
            if config.normalize
            else None
        )
        self.encoder = PopulationEncoder(obs_dim, config.spike_steps, config.encoder)
        sizes = (
            obs_dim * config.encoder.pop_size,
            *config.hidden_sizes,
            action_dim * config.decoder.pop_size,
        )
        self.mlp = SpikingMLP(sizes, config.neuron)

    def spikes(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Spikes of the output neurons, [T, B, N]; NaN for samples with a NaN or infinite value.

        Args:
            obs: observations, [B, obs_dim].
            deterministic: no Poisson draws; see PopulationEncoder.

        Raises:
            ValueError: if obs has another shape.
        """
        obs = obs.to(self.encoder.mean.dtype)
        if self.normalizer is not None:
            # Without gradients nothing learns: SAC asks its actor in training mode for targets.
            if self.training and torch.is_grad_enabled():
                self.normalizer.update(obs)
            obs = self.normalizer(obs)
        spikes: Tensor = self.mlp(self.encoder(obs, deterministic))
        return spikes

    def forward(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Activity of the output neurons, [B, N]; see `spikes`."""
        return population_activity(self.spikes(obs, deterministic), self.config.decoder)


class PopulationActor(PopulationBody):
    """Population-coded spiking actor: observations [B, obs_dim] -> values [B, action_dim].

    Args:
        obs_dim: observation dimensions, >= 1.
        action_dim: values to produce, >= 1.
        config: everything else.

    Source: Tang et al. 2020 (PopSAN).
    """

    def __init__(
        self, obs_dim: int, action_dim: int, config: PopulationActorConfig | None = None
    ) -> None:
        super().__init__(obs_dim, action_dim, config)
        self.decoder = PopulationDecoder(action_dim, self.config.spike_steps, self.config.decoder)

    def forward(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Decide on a batch of observations; see `spikes`.

        Returns:
            values [B, action_dim], in [-1, 1] if the config squashes.
        """
        values: Tensor = self.decoder(self.spikes(obs, deterministic))
        values = values + fault_mark(values)  # tanh would make infinity 1
        return torch.tanh(values) if self.config.squash else values
