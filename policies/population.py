"""Population coding: observations to spikes of Gaussian receptive fields, spikes to values."""

import math

import torch
from torch import Tensor, nn

from policies.checks import check_features, fault_mark
from policies.config import DecoderConfig, EncoderConfig, EncoderKind, LIFConfig
from policies.functional import LIFState, lif_sequence, state_dtype
from policies.kernels.choice import Matmul
from policies.kernels.guard import autocasts, plain_only
from policies.kernels.readout import compiled_read, exact_read
from policies.surrogate import straight_through

# Far below any useful width (fields start at 0.39): keeps a std that crosses 0 from dividing by 0.
MIN_VARIANCE = 1e-6


class PopulationEncoder(nn.Module):
    """Observations [B, obs_dim] -> spikes [T, B, obs_dim * P], P neurons per observation dimension.

    Neuron j of dimension d has a Gaussian receptive field with learnable mean and std,
    a = exp(-(obs_d - mean_dj)^2 / (2 std_dj^2)). The activation a, the same at each spike step,
    becomes spikes:

    *   deterministic: v += a; spike where v > 0.999; v -= 0.999 (an integrator without leak). v
        starts at 0 (PopSAN), or at the share `v_init` of the threshold: at 0.5 a field's spikes are
        the nearest number to its activation's sum over the steps, not the next lower one, and the
        first step is not nearly silent.
    *   poisson: a spike with probability a, drawn from torch's global generator at each step.
    *   analog: the activation itself; not binary.

    The gradient of a spike with respect to its activation is 1 (straight-through). Spikes of one
    observation dimension stand together: index d * P + j.

    Args:
        obs_dim: observation dimensions, >= 1.
        spike_steps: T, >= 1.
        config: population size, kind, range, std and the integrator's start.

    Source: Tang et al. 2020 (PopSAN), population encoder.
    """

    def __init__(self, obs_dim: int, spike_steps: int, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = EncoderConfig() if config is None else config
        self.obs_dim = obs_dim
        self.spike_steps = spike_steps
        bound = self.config.field_range if self.config.pop_size > 1 else 0.0
        means = torch.linspace(-bound, bound, self.config.pop_size)
        self.mean = nn.Parameter(means.repeat(obs_dim, 1))
        self.std = nn.Parameter(torch.full_like(self.mean, self.config.initial_std))
        self._integrator = LIFConfig(
            v_decay=1.0, v_threshold=self.config.v_threshold, reset_mode="soft"
        )

    def activation(self, obs: Tensor) -> Tensor:
        """Responses of the receptive fields to obs [B, obs_dim]: [B, obs_dim * P], in [0, 1].

        Raises:
            ValueError: if obs has another shape.
        """
        check_features("observations", obs, self.obs_dim)
        distance = obs.unsqueeze(-1) - self.mean  # [B, obs_dim, P]
        variance = self.std.square().clamp_min(MIN_VARIANCE)
        activation = torch.exp(-0.5 * distance.square() / variance)
        # Infinitely far or wide fields would answer with an ordinary 0 or 1; 0 * infinity is NaN.
        return (activation + 0.0 * (distance + self.std).detach()).flatten(1)

    def kind(self, deterministic: bool = False) -> EncoderKind:
        """How activations become spikes in a call."""
        kind = self.config.kind
        return "deterministic" if kind == "poisson" and deterministic else kind

    def forward(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Encode a batch.

        Args:
            obs: observations, [B, obs_dim], about within the fields' range.
            deterministic: use the deterministic integrator in place of Poisson draws.

        Returns:
            spikes [T, B, obs_dim * P], NaN for samples with a NaN or infinite activation; for
            "analog" the activations.
        """
        activation = self.activation(obs)
        activation_seq = activation.expand(self.spike_steps, -1, -1)
        kind = self.kind(deterministic)
        if kind == "analog":
            return activation_seq
        if kind == "poisson":
            spikes_seq = straight_through(activation_seq, torch.rand_like(activation_seq))
        else:
            start = torch.full_like(
                activation, self.config.v_start, dtype=state_dtype(activation.dtype)
            )
            spikes_seq, _ = lif_sequence(
                activation_seq, LIFState(start), self._integrator, straight_through
            )
        return spikes_seq + fault_mark(activation)

    def extra_repr(self) -> str:
        """Show the settings in print(module)."""
        return f"obs_dim={self.obs_dim}, spike_steps={self.spike_steps}, {self.config}"


def population_activity(spikes_seq: Tensor, config: DecoderConfig) -> Tensor:
    """What the readout sees of the output neurons' spikes: [T, B, N] -> [B, N].

    *   rate: spikes per spike step.
    *   membrane: a sum over steps in which older spikes have decayed by v_decay a step.
    """
    steps = spikes_seq.shape[0]
    dtype = state_dtype(spikes_seq.dtype)  # under autocast spikes may be bfloat16
    if config.kind == "rate":
        return spikes_seq.sum(dim=0, dtype=dtype) / steps
    kernel = membrane_kernel(steps, config.v_decay).to(spikes_seq.device, dtype)
    return (kernel.view(-1, 1, 1) * spikes_seq).sum(dim=0)


def membrane_kernel(steps: int, v_decay: float) -> Tensor:
    """What is left after the last step of an input at each step, [T]."""
    return torch.tensor([v_decay**age for age in range(steps - 1, -1, -1)])


class PopulationReadout(nn.Module):
    """Population activity [B, action_dim * P] -> values [B, action_dim], each from its own neurons.

    Args:
        action_dim: values to read, >= 1.
        spike_steps: T, >= 1.
        config: population size, kind and readout decay.
        matmul: with "exact" no order of addition changes a bit; see policies.kernels.readout.
    """

    def __init__(
        self,
        action_dim: int,
        spike_steps: int,
        config: DecoderConfig | None = None,
        matmul: Matmul = "float32",
    ) -> None:
        super().__init__()
        self.config = config = DecoderConfig() if config is None else config
        self.action_dim = action_dim
        self.matmul = matmul
        # spikes of a neuron over its activity
        self.steps = spike_steps if config.kind == "rate" else 1
        # The initialization of the grouped convolution that PopSAN uses: fan-in P.
        bound = 1.0 / math.sqrt(config.pop_size)
        self.weight = nn.Parameter(torch.empty(action_dim, config.pop_size))
        self.bias = nn.Parameter(torch.empty(action_dim))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        # A membrane integrates its bias at each step, a rate is taken once.
        kernel = membrane_kernel(spike_steps, config.v_decay)
        self.bias_gain = float(kernel.sum()) if config.kind == "membrane" else 1.0

    def is_exact(self) -> bool:
        """Whether values have the same bits in any order of addition."""
        plain = self.weight.dtype == torch.float32 and not plain_only()
        exact = self.matmul == "exact" and not autocasts(self.weight.device)
        return plain and exact and self.config.countable

    def read(self, activity: Tensor) -> Tensor:
        """Weigh the activity [B, action_dim * P] into values [B, action_dim]."""
        weight, bias = self.weight, self.bias
        exact = self.is_exact()
        if exact:
            read = compiled_read(activity, weight, bias, self.bias_gain, self.steps)
            if read is not None:
                return read
        populations = activity.view(-1, self.action_dim, self.config.pop_size)
        if exact:
            values = exact_read(populations, weight, self.steps)
        else:
            values = (populations * weight).sum(dim=-1)
        return values + self.bias_gain * bias

    def forward(self, activity: Tensor) -> Tensor:
        """As `read`."""
        return self.read(activity)

    def extra_repr(self) -> str:
        """Show the settings in print(module)."""
        return f"action_dim={self.action_dim}, {self.config}"


class PopulationDecoder(PopulationReadout):
    """Spikes [T, B, action_dim * P] -> values [B, action_dim], each from its own P neurons.

    *   rate: weight . (spikes per step) + bias (PopSAN).
    *   membrane: a non-spiking neuron per action, u = v_decay * u + weight . spikes + bias, read
        after the last step. It needs no rate and so no real-valued product per decision: weights
        of neurons that spiked are added (ILC-SAN).

    Args:
        action_dim: values to read, >= 1.
        spike_steps: T, >= 1.
        config: population size, kind and readout decay.
        matmul: see PopulationReadout.

    Source: Tang et al. 2020 (PopSAN); Chen et al. 2024 (ILC-SAN), membrane readout.
    """

    def forward(self, spikes_seq: Tensor) -> Tensor:
        """Decode spikes [T, B, action_dim * P] into values [B, action_dim].

        Raises:
            ValueError: if spikes_seq has another shape.
        """
        neurons = self.action_dim * self.config.pop_size
        if spikes_seq.dim() != 3 or spikes_seq.shape[2] != neurons:
            raise ValueError(
                f"spikes_seq must be [T, B, {neurons}] (time first), got "
                f"{tuple(spikes_seq.shape)}; check action_dim * decoder_pop_size"
            )
        return self.read(population_activity(spikes_seq, self.config))
