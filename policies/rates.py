"""Firing rates of layers, whichever kernel runs them."""

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn

from policies.kernels.guard import looked_at


class RateHook:
    """A forward hook on neurons that keeps their mean spikes a neuron and spike step.

    Compiled layers never call the neurons' modules; they count spikes as they write them, and
    `report` the rate to hooks of this class. Any other hook makes the plain operations run.

    Args:
        name: key of the rate.
        rates: where it goes.
    """

    def __init__(self, name: str, rates: MutableMapping[str, Tensor]) -> None:
        self.name = name
        self.rates = rates

    def __call__(
        self, _module: nn.Module, _args: tuple[Any, ...], output: tuple[Tensor, Any]
    ) -> None:
        """Keep the rate of a call's spikes."""
        self.rates[self.name] = output[0].detach().mean()


def report(neuron: nn.Module, rate: Tensor) -> None:
    """Give a rate to the hooks that wait for it."""
    for hook in neuron._forward_hooks.values():
        if isinstance(hook, RateHook):
            hook.rates[hook.name] = rate


def only_rates(module: nn.Module) -> bool:
    """Whether no hook but those for rates hangs on a module or on what it contains."""
    if looked_at(part for part in module.modules() if not part._forward_hooks):
        return False
    for part in module.modules():
        if not all(isinstance(hook, RateHook) for hook in part._forward_hooks.values()):
            return False
        if part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return False
    return True
