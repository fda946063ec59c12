"""Firing rates of a network while it runs."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from policies.neurons import LIF, CurrentLIF
from policies.rates import RateHook


@contextmanager
def recorded_rates(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Mean spikes per neuron and spike step of every layer that fires inside the block, by name.

    A layer that runs twice keeps its last rate.
    """
    rates: dict[str, Tensor] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, LIF | CurrentLIF):
            handles.append(module.register_forward_hook(RateHook(name, rates)))
    try:
        yield rates
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def paused_rates(network: nn.Module) -> Iterator[None]:
    """Inside, `recorded_rates` of a block around this one records nothing."""
    hooks = {module: module._forward_hooks for module in network.modules()}
    for module, kept in hooks.items():
        others = {key: hook for key, hook in kept.items() if not isinstance(hook, RateHook)}
        module._forward_hooks = OrderedDict(others)
    try:
        yield
    finally:
        for module, kept in hooks.items():
            module._forward_hooks = kept


def summary(rates: dict[str, Tensor]) -> dict[str, float]:
    """What d3rlpy logs of the rates: their mean over layers, the lowest and the highest."""
    if not rates:
        return {}
    # One transfer from the device for all layers.
    values = torch.stack(list(rates.values())).tolist()
    return {
        "firing_rate": sum(values) / len(values),
        "firing_rate_min": min(values),
        "firing_rate_max": max(values),
    }
