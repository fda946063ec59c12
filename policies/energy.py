"""Counted operations of spiking and dense networks on real inputs.

The counting rules are NeuroBench's "effective" synaptic operations (Yik et al. 2025): for each
linear layer, products whose input and weight are both non-zero; accumulates where the layer's input
is binary, multiply-accumulates where it is not; biases, membrane updates and norms left out. One
model execution is one decision, so the T spike steps of a decision add up.

These are counts, not energy: they say nothing about data movement.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.neurons import LIF, CurrentLIF
from policies.population import PopulationDecoder, PopulationEncoder, PopulationReadout

Output = Tensor | tuple[Tensor, NamedTuple]
Hook = Callable[[nn.Module, tuple[Tensor, ...], Output], None]


@dataclass(frozen=True)
class LayerCount:
    """Operations of one layer, mean a sample; its firing rate if it is a layer of neurons."""

    # additions of a weight, for inputs in {0, 1}
    accumulates: float = 0.0
    # multiplications with addition, for any other input
    multiply_accumulates: float = 0.0
    # spikes per neuron per spike step, in [0, 1]; None where nothing spikes
    firing_rate: float | None = None

    def __add__(self, other: "LayerCount") -> "LayerCount":
        """Counts of a layer that runs twice in one forward; its firing rate is the mean."""
        rates = [rate for rate in (self.firing_rate, other.firing_rate) if rate is not None]
        return LayerCount(
            self.accumulates + other.accumulates,
            self.multiply_accumulates + other.multiply_accumulates,
            sum(rates) / len(rates) if rates else None,
        )


@dataclass(frozen=True)
class OperationCount:
    """Operations of a whole model, mean a sample, and the same by layer name."""

    layers: dict[str, LayerCount]

    @property
    def accumulates(self) -> float:
        """Accumulates of all layers."""
        return sum(layer.accumulates for layer in self.layers.values())

    @property
    def multiply_accumulates(self) -> float:
        """Multiply-accumulates of all layers."""
        return sum(layer.multiply_accumulates for layer in self.layers.values())

    @property
    def firing_rates(self) -> dict[str, float]:
        """Firing rate of each layer that spikes, by name, in data-flow order."""
        return {
            name: layer.firing_rate
            for name, layer in self.layers.items()
            if layer.firing_rate is not None
        }


@torch.no_grad()
def count_operations(model: nn.Module, observations: Tensor) -> OperationCount:
    """Run model once on observations [B, ...] in evaluation mode and count.

    Counted: nn.Linear; PopulationEncoder (two products per receptive field, for the distance's
    square and its scale; the exponential and the spike generator are left out); PopulationDecoder
    (one product per output neuron that fired for a rate, one addition per spike for a membrane
    readout); PopulationReadout alone (one product per active neuron).

    Args:
        model: any module whose forward takes the observations; a dense network serves as baseline.
        observations: a batch of inputs that the counts are averaged over.

    Returns:
        counts a sample, by module name.
    """
    counts: dict[str, LayerCount] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | PopulationEncoder | PopulationReadout | LIF | CurrentLIF):
            hook = _hook(name, counts, observations.shape[0])
            handles.append(module.register_forward_hook(hook))
    try:
        # Poisson encoders draw: measuring must not change a seeded run.
        devices = [observations.device] if observations.device.type == "cuda" else []
        with evaluating(model), torch.random.fork_rng(devices):
            model(observations)
    finally:
        for handle in handles:
            handle.remove()
    return OperationCount(counts)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _hook(name: str, counts: dict[str, LayerCount], samples: int) -> Hook:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Output) -> None:
        spikes = output[0] if isinstance(output, tuple) else output
        count = _count(module, args[0], spikes, samples)
        counts[name] = count + counts[name] if name in counts else count

    return hook


def _count(module: nn.Module, x: Tensor, output: Tensor, samples: int) -> LayerCount:
    if isinstance(module, PopulationEncoder):
        rate = float(output.mean()) if _is_binary(output) else None
        return LayerCount(multiply_accumulates=2.0 * module.mean.numel(), firing_rate=rate)
    if isinstance(module, PopulationReadout):
        used = (module.weight.flatten() != 0).double()
        if isinstance(module, PopulationDecoder):  # x is spikes, [T, B, N]
            if module.config.kind == "membrane":
                return LayerCount(accumulates=_products(x, used, samples))
            x = x.sum(dim=0)
        # A neuron's spikes are counted first; the count meets its weight once.
        return LayerCount(multiply_accumulates=_products(x, used, samples))
    if isinstance(module, nn.Linear):
        products = _products(x, (module.weight != 0).sum(dim=0).double(), samples)
        if _is_binary(x):
            return LayerCount(accumulates=products)
        return LayerCount(multiply_accumulates=products)
    return LayerCount(firing_rate=float(output.mean()))


def _products(x: Tensor, fan_out: Tensor, samples: int) -> float:
    """Non-zero inputs [..., N], each times its non-zero weights, fan_out [N]; mean a sample."""
    return float(((x != 0).double() @ fan_out).sum()) / samples


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())
