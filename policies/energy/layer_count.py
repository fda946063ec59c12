"""What counting one layer's operations gives, and the form of a rule that counts them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

LayerKind = Literal["linear", "encoder", "decoder", "attention", "norm", "neurons", "other"]


@dataclass(frozen=True)
class LayerCount:
    """Operations of one layer, mean a sample; its firing rate if it is a layer of neurons."""

    # additions of a weight, for inputs in {0, 1}
    accumulates: float = 0.0
    # multiplications with addition, for any other input
    multiply_accumulates: float = 0.0
    # spikes per neuron per spike step, in [0, 1]; None where nothing spikes
    firing_rate: float | None = None
    # all products of the layer at every spike step it runs, zeros included (NeuroBench's "Dense")
    dense: float = 0.0
    # "linear": any layer whose cost is input times weights: linear, convolution, recurrent
    kind: LayerKind = "other"
    # calls of the layer in one forward
    calls: int = 1
    # its input is what neurons fired: zeros in it are spikes that did not come, and cost nothing
    spiked: bool = False
    # of a linear layer on spikes: accumulates if every input fired at every step
    slots: float = 0.0

    def __add__(self, other: "LayerCount") -> "LayerCount":
        """Counts of a layer that runs again in one forward; its firing rate is the mean."""
        rates = [
            (layer.firing_rate, layer.calls)
            for layer in (self, other)
            if layer.firing_rate is not None
        ]
        calls = sum(n for _, n in rates)
        return LayerCount(
            self.accumulates + other.accumulates,
            self.multiply_accumulates + other.multiply_accumulates,
            sum(rate * n for rate, n in rates) / calls if calls else None,
            self.dense + other.dense,
            self.kind,
            self.calls + other.calls,
            self.spiked,
            self.slots + other.slots,
        )

    def with_zeros(self) -> "LayerCount":
        """As if a zero cost what any real number costs; spikes that did not come cost nothing.

        A layer on real numbers then costs the same in a spiking network as in a dense one.
        """
        if self.spiked:
            return self
        return replace(self, accumulates=0.0, multiply_accumulates=self.dense)


# (module, its inputs, its output, samples) -> operations of that call, mean a sample.
Rule = Callable[[nn.Module, tuple[Any, ...], Any, int], LayerCount]


def is_binary(x: Tensor) -> bool:
    """Whether x holds spikes: nothing but 0 and 1."""
    return bool(((x == 0) | (x == 1)).all())


def products(x: Tensor, weight: Tensor) -> float:
    """Products of inputs x [..., n] with weights [m, n] where neither is 0, over all of x."""
    fan_out = (weight != 0).sum(dim=0).double()
    return float(((x != 0).double() @ fan_out).sum())


def on_input(x: Tensor, effective: float, dense: float, kind: LayerKind) -> LayerCount:
    """Counts of a layer: accumulates if its input x is binary, else multiply-accumulates."""
    if is_binary(x):
        return LayerCount(accumulates=effective, dense=dense, kind=kind)
    return LayerCount(multiply_accumulates=effective, dense=dense, kind=kind)
