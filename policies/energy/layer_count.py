"""What counting one layer's operations gives, and the form of a rule that counts them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


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


# (module, its inputs, its output, samples) -> operations of that call, mean a sample.
Rule = Callable[[nn.Module, tuple[Any, ...], Any, int], LayerCount]


def is_binary(x: Tensor) -> bool:
    """Whether x holds spikes: nothing but 0 and 1."""
    return bool(((x == 0) | (x == 1)).all())
