"""Neuron modules: shells over `functional` that hold settings and never hold state."""

from torch import Tensor, nn

from policies.config import CurrentLIFConfig, LIFConfig, NeuronConfig
from policies.functional import (
    CurrentLIFState,
    Feedback,
    LIFState,
    current_lif_sequence,
    lif_sequence,
)
from policies.kernels.lif import fused_lif_sequence
from policies.surrogate import SpikeFn, Surrogate, tracing


def _check_sequence(i_in_seq: Tensor) -> None:
    if i_in_seq.dim() < 2 or i_in_seq.shape[0] == 0:
        raise ValueError(
            "i_in_seq must be [T, B, ...] (spike steps first) with T >= 1, "
            f"got {tuple(i_in_seq.shape)}"
        )


class LIF(nn.Module):
    """Leaky integrate-and-fire layer over a whole spike train.

    Args:
        config: decay, threshold, reset and surrogate.
        fused: one backward for all steps: faster, but not twice differentiable, and without
            gradient through the returned state. Where a state or feedback is passed in, or the
            network is traced, the plain version runs; spikes are the same.
    """

    def __init__(self, config: LIFConfig | None = None, fused: bool = False) -> None:
        super().__init__()
        self.config = LIFConfig() if config is None else config
        self.spike_fn: SpikeFn = Surrogate(self.config.surrogate, self.config.surrogate_width)
        self.fused = fused

    def forward(
        self, i_in_seq: Tensor, state: LIFState | None = None, feedback: Feedback | None = None
    ) -> tuple[Tensor, LIFState]:
        """Input currents [T, B, N] -> spikes [T, B, N] and the state after the last step.

        `feedback` is what spikes add to the next step's currents; see policies.functional.
        """
        _check_sequence(i_in_seq)
        fused = self.fused and state is None and feedback is None
        if fused and isinstance(self.spike_fn, Surrogate) and not tracing():
            return fused_lif_sequence(i_in_seq, self.config, self.spike_fn)
        return lif_sequence(i_in_seq, state, self.config, self.spike_fn, feedback)

    def extra_repr(self) -> str:
        """Show the settings in print(module)."""
        return repr(self.config)


class CurrentLIF(nn.Module):
    """Current-based LIF layer (PopSAN's neuron) over a whole spike train.

    Args:
        config: decays, threshold, reset and surrogate.
    """

    def __init__(self, config: CurrentLIFConfig | None = None) -> None:
        super().__init__()
        self.config = CurrentLIFConfig() if config is None else config
        self.spike_fn: SpikeFn = Surrogate(self.config.surrogate, self.config.surrogate_width)

    def forward(
        self,
        i_in_seq: Tensor,
        state: CurrentLIFState | None = None,
        feedback: Feedback | None = None,
    ) -> tuple[Tensor, CurrentLIFState]:
        """Input currents [T, B, N] -> spikes [T, B, N] and the state after the last step.

        `feedback` is what spikes add to the next step's currents; see policies.functional.
        """
        _check_sequence(i_in_seq)
        return current_lif_sequence(i_in_seq, state, self.config, self.spike_fn, feedback)

    def extra_repr(self) -> str:
        """Show the settings in print(module)."""
        return repr(self.config)


def make_neuron(config: NeuronConfig) -> LIF | CurrentLIF:
    """The layer that a neuron config describes."""
    return CurrentLIF(config) if isinstance(config, CurrentLIFConfig) else LIF(config)
