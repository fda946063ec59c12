"""What tensors that hooks have caught say about a part of a network."""

import torch
from torch import Tensor, nn

from policies.config import CurrentLIFConfig
from policies.energy.layer_count import is_binary
from policies.monitor.activity import EncoderActivity, Gradient, LayerActivity, ReadoutActivity
from policies.neurons import LIF, CurrentLIF
from policies.normalizer import RunningNormalizer
from policies.population import PopulationEncoder, PopulationReadout

# Response of an analog encoder's field below which it counts as missing the data.
ANALOG_LEAST = 0.1
# Relative spread between samples from which something differs at all; below is rounding.
MOVES = 1e-6


def encoder_activity(
    network: nn.Module, name: str, encoder: PopulationEncoder, obs: Tensor, output: Tensor
) -> EncoderActivity:
    """What an encoder in `network` did with observations [B, D], as it received them."""
    rate = float(output.mean()) if is_binary(output) else None
    activation = encoder.activation(obs).unflatten(1, (encoder.obs_dim, -1))  # [B, D, P]
    missed = activation.amax(dim=2) < _least_activation(encoder)
    normalizer = _normalizer_before(network, name)
    learned = True
    if normalizer is not None:
        clipped = obs.abs() >= normalizer.clip
        # Features with bounds reach their edge by right.
        missed = missed | (clipped & ~normalizer.running_fixed.bool())
        learned = bool(normalizer.running_count > 0) or bool(normalizer.running_fixed.all())
    counts = output.sum(dim=0)
    return EncoderActivity(
        name,
        rate,
        missed.float().mean(dim=0),
        learned,
        fed=_moves(obs),
        tells=_moves(counts),
        spread=float((obs.amax(dim=0) - obs.amin(dim=0)).max()),
        steps=encoder.spike_steps,
    )


def _least_activation(encoder: PopulationEncoder) -> float:
    """Response of a receptive field from which it has something to tell."""
    kind, steps = encoder.config.kind, encoder.spike_steps
    if kind == "deterministic":  # from here on the integrator fires within T steps
        return (encoder.config.v_threshold - encoder.config.v_start) / steps
    if kind == "poisson":  # from here on it fires more likely than not
        return float(1.0 - 0.5 ** (1.0 / steps))
    return ANALOG_LEAST


def _normalizer_before(network: nn.Module, name: str) -> RunningNormalizer | None:
    body = network.get_submodule(name.rpartition(".")[0])
    normalizer = getattr(body, "normalizer", None)
    return normalizer if isinstance(normalizer, RunningNormalizer) else None


def layer_activity(
    name: str,
    neuron: LIF | CurrentLIF,
    i_in_seq: Tensor,
    spikes_seq: Tensor,
    v: Tensor,
    fed: Tensor | None,
    mask: Tensor | None,
    gradient: Gradient | None,
) -> LayerActivity:
    """What neurons did with currents i_in_seq [T, ..., N].

    Args:
        name: of their module.
        neuron: the module.
        i_in_seq: its input.
        spikes_seq: its output, in the same shape.
        v: membrane potentials after the last step.
        fed: what the linear layer in front received; None if that is not known.
        mask: which samples count, 1 or 0; None: all.
        gradient: how they pass gradients on.
    """
    batch = i_in_seq.shape[1]
    i_in_seq = samples_of(i_in_seq.detach().float(), mask)
    # Of the layer as a whole: against a bias near 0 any rounding is large.
    driven = _moves(i_in_seq.movedim(1, 0), together=True)
    spikes_seq = samples_of(spikes_seq.detach().float(), mask)
    return LayerActivity(
        name,
        counts=spikes_seq.sum(dim=0),
        steps=len(spikes_seq),
        threshold=neuron.config.v_threshold,
        peak=_free_peak(neuron, i_in_seq),
        fed=driven if fed is None else _feed_moves(fed.detach().float(), batch, mask),
        driven=driven,
        gradient=gradient,
        finite=bool(torch.isfinite(v).all()) and bool(torch.isfinite(spikes_seq).all()),
    )


def _feed_moves(x: Tensor, batch: int, mask: Tensor | None) -> bool:
    """Whether a linear layer's input moves: [T * B, N] or [B, N], or tokens [T, B, L, N]."""
    x_seq = x.reshape(-1, batch, x.shape[-1]) if x.dim() == 2 else x
    return _moves(samples_of(x_seq, mask).movedim(1, 0))


def samples_of(x_seq: Tensor, mask: Tensor | None) -> Tensor:
    """[T, S, N] of [T, ..., N]: samples that count."""
    x_seq = x_seq.flatten(1, -2)
    return x_seq if mask is None else x_seq[:, mask.flatten() > 0]


def _free_peak(neuron: LIF | CurrentLIF, i_in_seq: Tensor) -> Tensor:
    """Highest membrane potential [N] over steps and samples of [T, S, N], without any spike."""
    config = neuron.config
    i_decay = config.i_decay if isinstance(config, CurrentLIFConfig) else 0.0
    i = v = torch.zeros_like(i_in_seq[0])
    peak = torch.full_like(v[0], -torch.inf)
    for i_in in i_in_seq:
        i = i_decay * i + i_in
        v = config.v_decay * v + i
        peak = torch.maximum(peak, v.amax(dim=0))
    return peak


def readout_activity(
    actions: Tensor | None,
    name: str,
    module: nn.Module,
    x: Tensor,
    values: Tensor,
    mask: Tensor | None,
) -> ReadoutActivity:
    """What a layer read from x, [B, N] or [T, B, N] or tokens [B, L, N].

    Args:
        actions: what the network makes of the values; None if that is not known.
        name: of its module.
        module: the layer.
        x: its input.
        values: its output.
        mask: which samples count, 1 or 0; None: all.
    """
    x, values = x.detach().float(), values.detach().float()
    population = x.shape[-1]
    if isinstance(module, PopulationReadout):
        population = module.config.pop_size
        if x.dim() == 3:  # a PopulationDecoder sees spikes [T, B, A * P]
            x = x.mean(dim=0)
    elif x.dim() > 2:  # tokens [B, L, D]
        x, values = samples_of(x[None], mask)[0], samples_of(values[None], mask)[0]
    groups = x.unflatten(-1, (-1, population))  # [B, A or 1, P]
    # PyTorch's initial weights of a layer with P inputs have variance 1 / (3 P).
    expected = (groups.var(dim=0, correction=0).sum(dim=-1) / (3 * population)).sqrt()
    moved = values.std(dim=0, correction=0)
    expected = expected.expand_as(moved)
    # A population that stands still moves nothing, whatever its weights are.
    still = expected <= MOVES * groups.abs().amax(dim=(0, -1)).expand_as(moved)
    response = torch.where(still, torch.inf, moved / expected)
    return ReadoutActivity(
        name,
        response,
        _moves(x),
        bool(torch.isfinite(values).all()),
        population,
        stuck=actions is not None and bool((actions.abs() == 1).all()) and not _moves(actions),
    )


def _moves(x: Tensor, together: bool = False) -> bool:
    """Whether samples [S, ...] differ by more than rounding of each value, or of the largest."""
    spread = x.amax(dim=0) - x.amin(dim=0)
    size = x.abs().amax(dim=0)
    return bool((spread > MOVES * (size.max() if together else size)).any())
