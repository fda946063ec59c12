"""Run a network once on a batch and look at every spiking part of it.

The network runs through its plain modules (hooks make kernels stand back), in evaluation mode, and
nothing stays behind: no hooks, no gradients, no moved statistics, no used random numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.energy.count import evaluating
from policies.monitor.activity import (
    Gradient,
    NetworkActivity,
)
from policies.monitor.measures import (
    encoder_activity,
    layer_activity,
    readout_activity,
    samples_of,
)
from policies.neurons import LIF, CurrentLIF
from policies.population import PopulationEncoder, PopulationReadout
from policies.transformer import SpikingTransformer
from policies.value import ValueReadout

# An entry passes a gradient if what leaves it is at least this part of what typically arrives.
OPEN = 0.01


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
    handles += [
        linear.register_forward_pre_hook(_feeding_hook(watch, name))
        for name, linear in _feeders(network)
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
        encoders = [encoder_activity(network, *call) for call in watch.encoders]
        read = [
            readout_activity(watch.actions.get(call[0].rpartition(".")[0]), *call)
            for call in watch.readouts
        ]
        kept = [watch.mask_of(name) for name, *_ in watch.layers]
        gradients = _gradients(watch, kept, result)
        layers = [
            layer_activity(*call, watch.feeds.get(call[0]), mask, gradient)
            for call, mask, gradient in zip(watch.layers, kept, gradients, strict=True)
        ]
    return NetworkActivity(tuple(encoders), tuple(layers), tuple(read), broken, failed)


_WATCHED = (
    PopulationEncoder,
    LIF,
    CurrentLIF,
    PopulationReadout,
    PopulationActor,
    ValueReadout,
    SpikingTransformer,
)


class _Watch:
    """What the hooks have kept, in the order of calls."""

    def __init__(self) -> None:
        self.encoders: list[tuple[str, PopulationEncoder, Tensor, Tensor]] = []
        self.layers: list[tuple[str, LIF | CurrentLIF, Tensor, Tensor, Tensor]] = []
        self.readouts: list[tuple[str, nn.Module, Tensor, Tensor, Tensor | None]] = []
        # what the linear layer in front of neurons receives, by the neurons' name
        self.feeds: dict[str, Tensor] = {}
        # actions of squashed networks, by the network's name
        self.actions: dict[str, Tensor] = {}
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
        elif isinstance(module, PopulationActor):
            if module.config.squash:
                watch.actions[name] = output
        elif isinstance(module, SpikingTransformer):
            watch.tokens[name] = args[1] if len(args) > 1 else None
        else:
            watch.readouts.append((name, module, args[0], output, mask))

    return hook


def _own_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A residual stream goes round its neurons too: let their gradient be told from the others."""
    return (args[0].view_as(args[0]), *args[1:])


def _feeders(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names of neurons, and the linear layer (with its norm) in front, where it is known."""
    modules = dict(network.named_modules())
    pairs = []
    for name, module in modules.items():
        if isinstance(module, LIF | CurrentLIF):
            head, _, last = name.rpartition(".")
            if head.endswith("neurons"):  # of a SpikingMLP
                before = f"{head.removesuffix('neurons')}linears.{last}"
            else:  # of a transformer's SpikingLayer
                before = f"{head}.current"
            if before in modules:
                pairs.append((name, modules[before]))
    return pairs


def _feeding_hook(watch: _Watch, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        watch.feeds[name] = args[0]

    return hook


def _broken_tensors(network: nn.Module) -> list[str]:
    return [
        name
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


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
    arrived = samples_of(arrived, mask)
    typical = arrived.square().mean().sqrt()
    if typical == 0:
        return None
    # Of entries that a gradient reaches: spikes that are multiplied (PSSA) shield each other.
    reached = arrived.abs() >= OPEN * typical
    passed = torch.zeros_like(reached)
    if left is not None:
        passed = reached & (samples_of(left, mask).abs() >= OPEN * typical)
    return Gradient(reached.sum(dim=(0, 1)), passed.sum(dim=(0, 1)))


def _signs(values: Tensor) -> Tensor:
    """+1 and -1 in turns, so that gradients of samples do not cancel in a fixed pattern."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 2, values.shape, generator=generator)
    return (2.0 * drawn - 1.0).to(values)
