"""Counted operations of spiking and dense networks on real inputs.

The counting rules are NeuroBench's "effective" synaptic operations (Yik et al. 2025): for each
linear layer, products whose input and weight are both non-zero; accumulates where the layer's input
is binary, multiply-accumulates where it is not; biases and membrane updates left out. Norms count,
which NeuroBench leaves out: folding them is a choice that should show. One model execution is one
decision, so the T spike steps of a decision add up.

These are counts, not energy: they say nothing about data movement.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policies.energy.constants import DEFAULT_COSTS, OperationCosts
from policies.energy.figures import Figure
from policies.energy.layer_count import LayerCount, Rule, is_binary
from policies.energy.transformer_rules import TRANSFORMER_RULES
from policies.neurons import LIF, CurrentLIF
from policies.population import PopulationDecoder, PopulationEncoder, PopulationReadout

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


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

    def energy(self, costs: OperationCosts = DEFAULT_COSTS) -> Figure:
        """Energy of the counted arithmetic, nJ a sample: no memory, no neuron updates."""
        value = (
            self.multiply_accumulates * costs.multiply_accumulate_pj
            + self.accumulates * costs.accumulate_pj
        )
        return Figure(
            value / 1000.0,
            "nJ",
            "counted",
            f"operations x {costs.multiply_accumulate_pj:g} pJ a multiply-accumulate and "
            f"{costs.accumulate_pj:g} pJ an accumulate ({costs.source})",
        )

    @property
    def energy_nj(self) -> float:
        """As `energy` with its default costs, 45 nm float32."""
        return self.energy().value

    @property
    def firing_rates(self) -> dict[str, float]:
        """Firing rate of each layer that spikes, by name, in data-flow order."""
        return {
            name: layer.firing_rate
            for name, layer in self.layers.items()
            if layer.firing_rate is not None
        }


@torch.no_grad()
def count_operations(
    model: nn.Module, *inputs: Any, rules: Mapping[type[nn.Module], Rule] | None = None
) -> OperationCount:
    """Run model once on a batch in evaluation mode and count.

    Counted: nn.Linear; PopulationEncoder (two products per receptive field, for the distance's
    square and its scale; the exponential and the spike generator are left out); PopulationDecoder
    (one product per output neuron that fired for a rate, one addition per spike for a membrane
    readout); PopulationReadout alone (one product per active neuron); spiking attention and norms
    (see `policies.energy.transformer_rules`).

    Args:
        model: any module whose forward takes the inputs; a dense network serves as baseline.
        inputs: a batch that the counts are averaged over; the first is [B, ...], or a list of such.
        rules: how to count modules of further types; they come before the rules above.

    Returns:
        counts a sample, by module name.
    """
    counts: dict[str, LayerCount] = {}
    handles = []
    first = inputs[0] if isinstance(inputs[0], Tensor) else inputs[0][0]
    table = {**(rules or {}), **TRANSFORMER_RULES, **_RULES}
    for name, module in model.named_modules():
        rule = next((table[kind] for kind in table if isinstance(module, kind)), None)
        if rule is not None:
            hook = _hook(name, counts, first.shape[0], rule)
            handles.append(module.register_forward_hook(hook))
    try:
        # Poisson encoders draw: measuring must not change a seeded run.
        devices = [first.device] if first.device.type == "cuda" else []
        with evaluating(model), torch.random.fork_rng(devices):
            model(*inputs)
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


def _hook(name: str, counts: dict[str, LayerCount], samples: int, rule: Rule) -> Hook:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        count = rule(module, args, output, samples)
        counts[name] = count + counts[name] if name in counts else count

    return hook


def _encoder(module: nn.Module, _args: tuple[Any, ...], output: Any, _samples: int) -> LayerCount:
    assert isinstance(module, PopulationEncoder)
    rate = float(output.mean()) if is_binary(output) else None
    return LayerCount(multiply_accumulates=2.0 * module.mean.numel(), firing_rate=rate)


def _readout(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, PopulationReadout)
    x: Tensor = args[0]
    used = (module.weight.flatten() != 0).double()
    if isinstance(module, PopulationDecoder):  # x is spikes, [T, B, N]
        if module.config.kind == "membrane":
            return LayerCount(accumulates=_products(x, used, samples))
        x = x.sum(dim=0)
    # A neuron's spikes are counted first; the count meets its weight once.
    return LayerCount(multiply_accumulates=_products(x, used, samples))


def _linear(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, nn.Linear)
    x: Tensor = args[0]
    products = _products(x, (module.weight != 0).sum(dim=0).double(), samples)
    if is_binary(x):
        return LayerCount(accumulates=products)
    return LayerCount(multiply_accumulates=products)


def _neurons(_module: nn.Module, _args: tuple[Any, ...], output: Any, _samples: int) -> LayerCount:
    return LayerCount(firing_rate=float(output[0].mean()))


_RULES: dict[type[nn.Module], Rule] = {
    PopulationEncoder: _encoder,
    PopulationReadout: _readout,
    nn.Linear: _linear,
    LIF: _neurons,
    CurrentLIF: _neurons,
}


def _products(x: Tensor, fan_out: Tensor, samples: int) -> float:
    """Non-zero inputs [..., N], each times its non-zero weights, fan_out [N]; mean a sample."""
    return float(((x != 0).double() @ fan_out).sum()) / samples
