"""Counted operations of spiking and dense networks on real inputs.

The counting rules are NeuroBench's "effective" synaptic operations (Yik et al. 2025): for each
linear layer, products whose input and weight are both non-zero; accumulates where the layer's input
is binary, multiply-accumulates where it is not; biases and membrane updates left out. Beside them
stand the "dense" operations: all products, zeros included. Coding, attention and norms count, which
NeuroBench leaves out (`policies.energy.metrics` has its own figures). One model execution is one
decision, so the T spike steps of a decision add up.

These are counts, not energy: they say nothing about data movement.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from policies.energy.constants import DEFAULT_COSTS, OperationCosts
from policies.energy.figures import Figure
from policies.energy.layer_count import LayerCount, Rule
from policies.energy.population_rules import POPULATION_RULES, READOUTS, value_readout
from policies.energy.torch_rules import TORCH_RULES, batch_norm, is_batch_norm, is_foldable
from policies.energy.transformer_rules import TRANSFORMER_RULES, folded
from policies.energy.unruled import Unruled
from policies.normalization import PTBN

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
Norms = Literal["charged", "folded"]


@dataclass(frozen=True)
class OperationCount:
    """Operations of a whole model, mean a sample, and the same by layer name.

    Attributes:
        layers: counts by module name, in data-flow order; encoder and decoder among them.
        uncounted: modules whose products are in no count, as "name (type)": while they ran,
            parameters were used or matrices multiplied where no rule looks. Pass `rules` for them.
    """

    layers: dict[str, LayerCount]
    uncounted: tuple[str, ...] = ()

    @property
    def accumulates(self) -> float:
        """Accumulates of all layers."""
        return sum(layer.accumulates for layer in self.layers.values())

    @property
    def multiply_accumulates(self) -> float:
        """Multiply-accumulates of all layers."""
        return sum(layer.multiply_accumulates for layer in self.layers.values())

    @property
    def dense(self) -> float:
        """Products of all layers at every spike step, zeros included."""
        return sum(layer.dense for layer in self.layers.values())

    def energy(self, costs: OperationCosts = DEFAULT_COSTS) -> Figure:
        """Energy of the counted arithmetic, nJ a sample: no memory, no neuron updates."""
        value = costs.energy_nj(self.accumulates, self.multiply_accumulates)
        return Figure(value, "nJ", "counted", f"operations x {costs.text}")

    def with_zeros(self) -> "OperationCount":
        """As if zeros among real numbers cost as well: see `LayerCount.with_zeros`."""
        layers = {name: layer.with_zeros() for name, layer in self.layers.items()}
        return replace(self, layers=layers)

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
    model: nn.Module,
    *inputs: Any,
    rules: Mapping[type[nn.Module], Rule] | None = None,
    norms: Norms = "charged",
) -> OperationCount:
    """Run model once on a batch in evaluation mode and count.

    What is counted stands with the rules: `policies.energy.torch_rules` (linear, convolution,
    recurrent, attention, norms), `population_rules` (coding), `transformer_rules` (spiking
    attention). A layer counts as often as it runs. An input that is the same at all T spike steps
    meets its weights once where the network computes it once, as the first layer behind an "analog"
    encoder does and a transformer's embedding; behind it, layers of spikes run T times. Left out
    are biases, additions of residual streams, neurons' updates, activation functions and constant
    factors that belong into weights.

    Args:
        model: any module whose forward takes the inputs; a dense network serves as baseline.
        inputs: a batch that the counts are averaged over; the first is [B, ...], or a list or
            mapping of such.
        rules: how to count modules of further types; they come before the rules above.
        norms: "charged"; or "folded": batch norms cost nothing, since in evaluation mode they are
            constants that can go into the linear layer beside them. Layer norms are charged always.

    Returns:
        counts a sample, by module name.

    Raises:
        ValueError: if norms is neither, or the batch is empty.
    """
    if norms not in get_args(Norms):
        raise ValueError(f"norms must be one of {list(get_args(Norms))}, got {norms!r}")
    first = first_tensor(inputs)
    samples = first.shape[0]
    counts: dict[str, LayerCount] = {}
    handles = []
    table = {**(rules or {}), **TRANSFORMER_RULES, **POPULATION_RULES, **TORCH_RULES}
    found = _rules(model, table, norms == "folded")
    for name, module in model.named_modules():
        if module in found:
            hook = _hook(name, counts, samples, found[module])
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    unruled = Unruled(found.__contains__)
    try:
        with evaluating(model, first), unruled.watching(model):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return OperationCount(counts, unruled.names)


@contextmanager
def evaluating(model: nn.Module, like: Tensor | None = None) -> Iterator[None]:
    """Evaluation mode inside, each module's own mode afterwards; and torch's generators as before.

    Args:
        model: to evaluate.
        like: a tensor on the device whose generator shall not move; None: the CPU's alone.
    """
    modes = {module: module.training for module in model.modules()}
    # Poisson encoders draw: measuring must not change a seeded run.
    devices = [like.device] if like is not None and like.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def first_tensor(inputs: Any) -> Tensor:
    """The first tensor of inputs, [B, ...], through lists and mappings.

    Raises:
        ValueError: if its batch is empty.
    """
    while not isinstance(inputs, Tensor):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs))
    if inputs.shape[0] == 0:
        raise ValueError("inputs must hold at least one sample to average over, got a batch of 0")
    return inputs


def _rules(
    model: nn.Module, table: Mapping[type[nn.Module], Rule], fold: bool
) -> dict[nn.Module, Rule]:
    """The rule of each module that has one."""
    found: dict[nn.Module, Rule] = {}
    for module in model.modules():
        # A readout's layers, which stand behind it, were found with it.
        if module not in found and (rule := _rule(module, table, fold)) is not None:
            found[module] = rule
        if isinstance(module, READOUTS):
            found |= dict.fromkeys(module.children(), value_readout)
    return found


def _rule(module: nn.Module, table: Mapping[type[nn.Module], Rule], fold: bool) -> Rule | None:
    if fold and (isinstance(module, PTBN) or (is_batch_norm(module) and is_foldable(module))):
        return folded
    rule = next((table[kind] for kind in table if isinstance(module, kind)), None)
    return batch_norm if rule is None and is_batch_norm(module) else rule


def _hook(name: str, counts: dict[str, LayerCount], samples: int, rule: Rule) -> Hook:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        count = rule(module, _positional(module, args, kwargs), output, samples)
        counts[name] = counts[name] + count if name in counts else count

    return hook


def _positional(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """All arguments of a forward in the order of its parameters."""
    if not kwargs:
        return args
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args
