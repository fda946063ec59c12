"""Run a network once on a batch and look at every spiking part of it.

The network runs through its plain modules (hooks make kernels stand back), in evaluation mode, and
nothing stays behind: no hooks, no gradients, no moved statistics, no used random numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from policies.config import CurrentLIFConfig
from policies.energy.count import evaluating
from policies.energy.layer_count import is_binary
from policies.monitor.activity import (
    EncoderActivity,
    Gradient,
    LayerActivity,
    NetworkActivity,
    ReadoutActivity,
)
from policies.neurons import LIF, CurrentLIF
from policies.normalizer import RunningNormalizer
from policies.population import PopulationEncoder, PopulationReadout
from policies.transformer import SpikingTransformer
from policies.value import ValueReadout

# An entry passes a gradient if what leaves it is at least this part of what typically arrives.
OPEN = 0.01
# Relative spread between samples from which something differs at all; below is rounding.
MOVES = 1e-6


def probe(
    network: nn.Module,
    run: Callable[[], Any],
    readouts: Mapping[str, Tensor | None] | None = None,
) -> NetworkActivity:
    """Run a network and gather what its spiking parts did.

    Padded tokens of a SpikingTransformer are no samples.

    Args:
        network: holds all modules that are of interest; names are those in it.
        run: does one forward through modules of `network` on a batch of at least two samples. Its
            result, or where there are some the results of population and value readouts, is what
            gradients are taken of.
        readouts: names of linear layers that read values from spikes or rates too, and which of
            their samples count, 1 or 0 in the shape of their input without its last axis; None:
            all.

    Returns:
        the activity of the parts that ran; where a parameter is broken or the network refuses to
        run, only what is known by then.
    """
    broken = tuple(_broken_tensors(network))
    readouts = {} if readouts is None else readouts
    watch = _Watch()
    handles = [
        module.register_forward_hook(_named_hook(watch, name, readouts.get(name)))
        for name, module in network.named_modules()
        if isinstance(module, _WATCHED) or name in readouts
    ]
    handles += [
        module.register_forward_pre_hook(_own_input)
        for module in network.modules()
        if isinstance(module, LIF | CurrentLIF)
    ]
    failed = ""
    device = next((p.device for p in [*network.parameters(), *network.buffers()]), None)
    devices = [device] if device is not None and device.type == "cuda" else []
    try:
        with evaluating(network), torch.random.fork_rng(devices), torch.enable_grad():
            result = run()
    except ValueError as error:  # NaN is refused by name on its way out
        failed, result = str(error), None
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        encoders = [_encoder(network, *call) for call in watch.encoders]
        read = [_readout(*call) for call in watch.readouts]
        kept = [watch.mask_of(name) for name, *_ in watch.layers]
        gradients = _gradients(watch, kept, result)
        layers = [
            _layer(*call, mask, gradient)
            for call, mask, gradient in zip(watch.layers, kept, gradients, strict=True)
        ]
    return NetworkActivity(tuple(encoders), tuple(layers), tuple(read), broken, failed)


_WATCHED = (
    PopulationEncoder,
    LIF,
    CurrentLIF,
    PopulationReadout,
    ValueReadout,
    SpikingTransformer,
)


class _Watch:
    """What the hooks have kept, in the order of calls."""

    def __init__(self) -> None:
        self.encoders: list[tuple[str, PopulationEncoder, Tensor, Tensor]] = []
        self.layers: list[tuple[str, LIF | CurrentLIF, Tensor, Tensor, Tensor]] = []
        self.readouts: list[tuple[str, nn.Module, Tensor, Tensor, Tensor | None]] = []
        # transformers, and which of their tokens exist, [B, L]
        self.tokens: dict[str, Tensor | None] = {}

    def mask_of(self, layer: str) -> Tensor | None:
        """Which samples of a layer count, [B, L]; None: all."""
        for name, valid in self.tokens.items():
            if not name or layer.startswith(f"{name}."):
                return valid
        return None


def _named_hook(
    watch: _Watch, name: str, mask: Tensor | None
) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, PopulationEncoder):
            watch.encoders.append((name, module, args[0], output))
        elif isinstance(module, LIF | CurrentLIF):
            watch.layers.append((name, module, args[0], output[0], output[1].v))
        elif isinstance(module, SpikingTransformer):
            watch.tokens[name] = args[1] if len(args) > 1 else None
        else:
            watch.readouts.append((name, module, args[0], output, mask))

    return hook


def _own_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A residual stream goes round its neurons too: let their gradient be told from the others."""
    return (args[0].view_as(args[0]), *args[1:])


def _broken_tensors(network: nn.Module) -> list[str]:
    return [
        name
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def _encoder(
    network: nn.Module, name: str, encoder: PopulationEncoder, obs: Tensor, output: Tensor
) -> EncoderActivity:
    rate = float(output.mean()) if is_binary(output) else None
    activation = encoder.activation(obs).unflatten(1, (encoder.obs_dim, -1))  # [B, D, P]
    # The deterministic integrator fires within T steps from here on; a Poisson one is as likely to.
    least = encoder.config.v_threshold / encoder.spike_steps
    missed = activation.amax(dim=2) < least
    normalizer = _normalizer_before(network, name)
    learned = True
    if normalizer is not None:
        clipped = obs.abs() >= normalizer.clip
        # Features with bounds reach their edge by right.
        missed = missed | (clipped & ~normalizer.running_fixed.bool())
        learned = bool(normalizer.running_count > 0) or bool(normalizer.running_fixed.all())
    return EncoderActivity(name, rate, missed.float().mean(dim=0), learned)


def _normalizer_before(network: nn.Module, name: str) -> RunningNormalizer | None:
    body = network.get_submodule(name.rpartition(".")[0])
    normalizer = getattr(body, "normalizer", None)
    return normalizer if isinstance(normalizer, RunningNormalizer) else None


def _layer(
    name: str,
    neuron: LIF | CurrentLIF,
    i_in_seq: Tensor,
    spikes_seq: Tensor,
    v: Tensor,
    mask: Tensor | None,
    gradient: Gradient | None,
) -> LayerActivity:
    i_in_seq = _samples(i_in_seq.detach().float(), mask)
    spikes_seq = _samples(spikes_seq.detach().float(), mask)
    return LayerActivity(
        name,
        counts=spikes_seq.sum(dim=0),
        steps=len(spikes_seq),
        threshold=neuron.config.v_threshold,
        peak=_free_peak(neuron, i_in_seq),
        driven=_moves(i_in_seq.movedim(1, 0)),
        gradient=gradient,
        finite=bool(torch.isfinite(v).all()) and bool(torch.isfinite(spikes_seq).all()),
    )


def _samples(x_seq: Tensor, mask: Tensor | None) -> Tensor:
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


def _readout(
    name: str, module: nn.Module, x: Tensor, values: Tensor, mask: Tensor | None
) -> ReadoutActivity:
    x, values = x.detach().float(), values.detach().float()
    population = x.shape[-1]
    if isinstance(module, PopulationReadout):
        population = module.config.pop_size
        if x.dim() == 3:  # a PopulationDecoder sees spikes [T, B, A * P]
            x = x.mean(dim=0)
    elif x.dim() > 2:  # tokens [B, L, D]
        x, values = _samples(x[None], mask)[0], _samples(values[None], mask)[0]
    groups = x.unflatten(-1, (-1, population))  # [B, A or 1, P]
    # PyTorch's initial weights of a layer with P inputs have variance 1 / (3 P).
    expected = (groups.var(dim=0, correction=0).sum(dim=-1) / (3 * population)).sqrt()
    moved = values.std(dim=0, correction=0)
    expected = expected.expand_as(moved)
    # A population that stands still moves nothing, whatever its weights are.
    still = expected <= MOVES * groups.abs().amax(dim=(0, -1)).expand_as(moved)
    response = torch.where(still, torch.inf, moved / expected)
    return ReadoutActivity(name, response, _moves(x), bool(torch.isfinite(values).all()))


def _moves(x: Tensor) -> bool:
    """Whether samples [S, ...] differ by more than rounding."""
    spread = x.amax(dim=0) - x.amin(dim=0)
    return bool((spread > MOVES * x.abs().amax(dim=0)).any())


def _gradients(watch: _Watch, kept: list[Tensor | None], result: Any) -> list[Gradient | None]:
    """How each layer's neurons pass gradients on."""
    read = [(values, mask) for *_, values, mask in watch.readouts]
    if not read and isinstance(result, Tensor):
        read = [(result, None)]
    read = [(values, mask) for values, mask in read if values.requires_grad]
    outputs = [values for values, _ in read]
    through = [
        index for index, call in enumerate(watch.layers) if outputs and call[2].requires_grad
    ]
    found: list[Gradient | None] = [None] * len(watch.layers)
    if not through:
        return found
    inputs = [watch.layers[index][2] for index in through]
    spikes = [watch.layers[index][3] for index in through]
    signs = [
        _signs(values) * (1.0 if mask is None else mask[..., None].to(values))
        for values, mask in read
    ]
    grads = torch.autograd.grad(outputs, inputs + spikes, signs, allow_unused=True)
    for index, left, arrived in zip(through, grads, grads[len(through) :], strict=False):
        found[index] = _gradient(left, arrived, kept[index])
    return found


def _gradient(left: Tensor | None, arrived: Tensor | None, mask: Tensor | None) -> Gradient | None:
    if arrived is None or not bool(torch.isfinite(arrived).all()):
        return None
    arrived = _samples(arrived, mask)
    typical = arrived.square().mean().sqrt()
    if typical == 0:
        return None
    # Of entries that a gradient reaches: spikes that are multiplied (PSSA) shield each other.
    reached = arrived.abs() >= OPEN * typical
    passed = torch.zeros_like(reached)
    if left is not None:
        passed = reached & (_samples(left, mask).abs() >= OPEN * typical)
    return Gradient(reached.sum(dim=(0, 1)), passed.sum(dim=(0, 1)))


def _signs(values: Tensor) -> Tensor:
    """+1 and -1 in turns, so that gradients of samples do not cancel in a fixed pattern."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 2, values.shape, generator=generator)
    return (2.0 * drawn - 1.0).to(values)
