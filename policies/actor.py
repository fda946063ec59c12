"""Spiking networks for control: composition of coding, linear layers and neurons."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from policies.checks import check_features, fault_mark
from policies.config import PopulationActorConfig
from policies.kernels.choice import pick
from policies.kernels.fields import responses
from policies.kernels.guard import autocasts, looked_at
from policies.normalizer import RunningNormalizer
from policies.population import (
    MIN_VARIANCE,
    PopulationDecoder,
    PopulationEncoder,
    population_activity,
)
from policies.recalibration import estimate_statistics
from policies.spiking_mlp import SpikingMLP
from policies.synops import charged

if TYPE_CHECKING:
    from policies.event_driven import EventDrivenBody

# From here on the batched path is faster.
EVENT_DRIVEN_BATCH = 16


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
        self._events: EventDrivenBody | None = None  # copies and pickles start without
        sizes = (
            obs_dim * config.encoder.pop_size,
            *config.hidden_sizes,
            action_dim * config.decoder.pop_size,
        )
        self.mlp = SpikingMLP(
            sizes,
            config.neuron,
            matmul=config.matmul,
            matmul_backward=config.matmul_backward,
            kernel=config.kernel,
            analog=config.encoder.kind == "analog",
            intra_populations=action_dim if config.intra_layer else 0,
            synops_penalty=config.synops_penalty,
            batch_norm=config.batch_norm,
        )
        if config.batch_norm:
            estimate_statistics(self)

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
        if self.mlp.fast(obs, self.encoder):
            return self.mlp.run(
                self._activation(obs),
                self.config.spike_steps,
                self.encoder.kind(deterministic),
                self.config.encoder.v_threshold,
                self.config.encoder.v_start,
            )
        encoded: Tensor = self.encoder(obs, deterministic)
        if self.config.encoder.kind != "analog" and (prices := self.mlp.prices(encoded)):
            encoded = charged(encoded, prices[0])
        spikes: Tensor = self.mlp(encoded)
        return spikes

    def _activation(self, obs: Tensor) -> Tensor:
        """The encoder's, by the kernel that runs the neurons."""
        encoder = self.encoder
        if pick(self.config.kernel, obs.device) != "numba":
            return encoder.activation(obs)
        check_features("observations", obs, encoder.obs_dim)
        return responses(obs, encoder.mean, encoder.std, MIN_VARIANCE)

    def forward(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Activity of the output neurons, [B, N]; see `spikes`."""
        events = self.by_events(obs, deterministic)
        activity = None if events is None else events.activity(obs.contiguous().numpy())
        if activity is None:
            return population_activity(self.spikes(obs, deterministic), self.config.decoder)
        return torch.from_numpy(activity)

    def by_events(
        self, obs: Tensor, deterministic: bool = False, *others: nn.Module
    ) -> "EventDrivenBody | None":
        """The event-driven twin, where it is equal bit for bit and faster; else None.

        It is equal under matmul="exact" only, which counts spikes, and so never under autocast;
        `others` are modules that the result goes through, see SpikingMLP.fast.
        """
        config = self.config
        if torch.is_grad_enabled() or config.matmul != "exact" or obs.dim() != 2:
            return None
        encoder, mlp = self.encoder, self.mlp
        if (
            not 0 < obs.shape[0] <= EVENT_DRIVEN_BATCH
            or autocasts(obs.device)
            or obs.shape[1] != encoder.obs_dim
            or encoder.kind(deterministic) != "deterministic"
            or not config.decoder.countable
            or pick(config.kernel, obs.device) != "numba"
            or encoder.mean.device.type != "cpu"
            or not mlp.fast(obs, self, encoder, *others)
            or (self.normalizer is not None and looked_at((self.normalizer,)))
        ):
            return None
        if self._events is None:
            from policies.event_driven import EventDrivenBody

            self._events = EventDrivenBody(self, live=True)
        return self._events


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
        self.decoder = PopulationDecoder(
            action_dim, self.config.spike_steps, self.config.decoder, self.config.matmul
        )

    def forward(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Decide on a batch of observations; see `spikes`.

        Returns:
            values [B, action_dim], in [-1, 1] if the config squashes.
        """
        events = self.by_events(obs, deterministic, self.decoder)
        read = None
        if events is not None:
            from policies.event_driven import live_readout

            read = events.values(obs.contiguous().numpy(), live_readout(self.decoder))
        if read is not None:
            values = torch.from_numpy(read)
            return values.tanh_() if self.config.squash else values
        values = self.decoder(self.spikes(obs, deterministic))
        values = values + fault_mark(values)  # tanh would make infinity 1
        return torch.tanh(values) if self.config.squash else values
