"""Pure arithmetic of spiking neurons: state in, state out, no modules.

Numerics, a contract that every faster kernel must meet spike for spike:

*   One spike step charges, fires, resets, in that order, with explicit Euler steps of size 1:
    v' = v_decay * v + i;  s = [v' > v_threshold] (strict);  v = v' (1 - s) for the hard reset,
    v' - v_threshold s for the soft one. The state that is returned is the one after the reset.
    In the current-based neuron the input first passes i' = i_decay * i + x, and i' charges v.
*   Each product and each sum is rounded on its own: no fused multiply-add.
*   State starts at 0 (the encoder's at `EncoderConfig.v_start`) and is float32 at least, also
    under autocast; spikes have the input's dtype.
*   NaN stays: a membrane that became NaN or infinite is NaN or infinite after the last step, though
    its spikes are 0 or 1; `SpikingMLP` and the encoder mark the spikes of such samples NaN.
*   The gradient flows through the reset, d[v'(1 - s)]/dv' = (1 - s) - v' ds/dv', unless
    `detach_reset`; ds/dv' is the surrogate's.

PopSAN writes the same neuron with the reset at the start of the next step; spikes and gradients
are equal. SpikingJelly fires at v >= v_threshold and differs there only at exact equality.

Source: Tang et al. 2020 (PopSAN), current-based LIF; Huang et al. 2025 (DSFormer), LIF.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from policies.config import CurrentLIFConfig, LIFConfig
from policies.surrogate import SpikeFn

# Spikes of a step, [B, N] -> currents that they add to the next step's, [B, N].
Feedback = Callable[[Tensor], Tensor]


class LIFState(NamedTuple):
    """State of a LIF layer: membrane potential v after the last reset, [B, N]."""

    v: Tensor


class CurrentLIFState(NamedTuple):
    """State of a current-based LIF layer: synaptic current i and membrane potential v, [B, N]."""

    i: Tensor
    v: Tensor


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that state and membrane arithmetic use for inputs of `dtype`: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def _check_shape(i_in: Tensor, v: Tensor) -> None:
    if i_in.shape != v.shape:
        raise ValueError(
            f"input {tuple(i_in.shape)} and state {tuple(v.shape)} must have the same shape; "
            "carry state only between inputs of the same batch, or pass state=None"
        )


def _fire_and_reset(v: Tensor, config: LIFConfig, spike_fn: SpikeFn) -> tuple[Tensor, Tensor]:
    """Spikes of the charged membrane v, and v after the reset."""
    spikes = spike_fn(v, config.v_threshold)
    gate = spikes.detach() if config.detach_reset else spikes
    if config.reset_mode == "hard":
        return spikes, v * (1.0 - gate)
    return spikes, v - config.v_threshold * gate


def lif_step(
    i_in: Tensor, state: LIFState, config: LIFConfig, spike_fn: SpikeFn
) -> tuple[Tensor, LIFState]:
    """Advance a leaky integrate-and-fire layer by one spike step.

    Args:
        i_in: input current, [B, N].
        state: membrane potential after the previous step, [B, N].
        config: decay, threshold and reset.
        spike_fn: step function with a surrogate gradient.

    Returns:
        spikes in {0, 1}, [B, N], dtype of i_in; and the new state.

    Raises:
        ValueError: if i_in and state differ in shape.
    """
    _check_shape(i_in, state.v)
    v = state.v * config.v_decay + i_in.to(state.v.dtype)
    spikes, v = _fire_and_reset(v, config, spike_fn)
    return spikes.to(i_in.dtype), LIFState(v)


def current_lif_step(
    i_in: Tensor, state: CurrentLIFState, config: CurrentLIFConfig, spike_fn: SpikeFn
) -> tuple[Tensor, CurrentLIFState]:
    """Advance a current-based LIF layer by one spike step; as `lif_step`, with a current filter."""
    _check_shape(i_in, state.v)
    i = state.i * config.i_decay + i_in.to(state.i.dtype)
    v = state.v * config.v_decay + i
    spikes, v = _fire_and_reset(v, config, spike_fn)
    return spikes.to(i_in.dtype), CurrentLIFState(i, v)


def _with_feedback(i_in: Tensor, spikes_seq: list[Tensor], feedback: Feedback | None) -> Tensor:
    """The currents of the step that follows spikes_seq, with what its last spikes add."""
    return i_in if feedback is None or not spikes_seq else i_in + feedback(spikes_seq[-1])


def init_lif_state(like: Tensor) -> LIFState:
    """Zero state for inputs shaped like one step, [B, N]."""
    return LIFState(torch.zeros_like(like, dtype=state_dtype(like.dtype)))


def init_current_lif_state(like: Tensor) -> CurrentLIFState:
    """Zero state for inputs shaped like one step, [B, N]."""
    zeros = torch.zeros_like(like, dtype=state_dtype(like.dtype))
    return CurrentLIFState(zeros, zeros)


def lif_sequence(
    i_in_seq: Tensor,
    state: LIFState | None,
    config: LIFConfig,
    spike_fn: SpikeFn,
    feedback: Feedback | None = None,
) -> tuple[Tensor, LIFState]:
    """Run a LIF layer over all T spike steps.

    Args:
        i_in_seq: input currents, [T, B, N].
        state: state to continue from, or None to start at 0.
        config: decay, threshold and reset.
        spike_fn: step function with a surrogate gradient.
        feedback: what spikes of one step add to the currents of the next, from this call's first
            step on; None: nothing.

    Returns:
        spikes [T, B, N], dtype of i_in_seq; and the state after the last step.
    """
    state = init_lif_state(i_in_seq[0]) if state is None else state
    spikes_seq: list[Tensor] = []
    for i_in in i_in_seq.unbind(0):
        i_in = _with_feedback(i_in, spikes_seq, feedback)
        spikes, state = lif_step(i_in, state, config, spike_fn)
        spikes_seq.append(spikes)
    return torch.stack(spikes_seq), state


def current_lif_sequence(
    i_in_seq: Tensor,
    state: CurrentLIFState | None,
    config: CurrentLIFConfig,
    spike_fn: SpikeFn,
    feedback: Feedback | None = None,
) -> tuple[Tensor, CurrentLIFState]:
    """Run a current-based LIF layer over all T spike steps; as `lif_sequence`."""
    state = init_current_lif_state(i_in_seq[0]) if state is None else state
    spikes_seq: list[Tensor] = []
    for i_in in i_in_seq.unbind(0):
        i_in = _with_feedback(i_in, spikes_seq, feedback)
        spikes, state = current_lif_step(i_in, state, config, spike_fn)
        spikes_seq.append(spikes)
    return torch.stack(spikes_seq), state
