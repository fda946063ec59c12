"""Counting rules for population coding and neurons.

    RunningNormalizer   one product an observation dimension, for the deviation
    PopulationEncoder   two products a receptive field, for the distance's square and its scale;
                        the exponential and the spike generator are left out
    PopulationDecoder   rate: one product an output neuron that fired, since its spikes are counted
                        first and the count meets its weight once; membrane: one addition a spike
    PopulationReadout   one product an active neuron
    ValueReadout        one product an active neuron and value, and one for the level
    SpikeLinear         as any linear layer
    IntraLayer          one addition a weight of a spike that comes back: those of the last spike
                        step do not

Factors that belong into weights cost nothing: 1 / T of a rate, the gain of ValueReadout.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from policies.energy.layer_count import LayerCount, Rule, is_binary, products
from policies.energy.torch_rules import linear, spiked
from policies.intra_layer import IntraLayer
from policies.neurons import LIF, CurrentLIF
from policies.normalizer import RunningNormalizer
from policies.population import PopulationDecoder, PopulationEncoder, PopulationReadout
from policies.spiking_mlp import SpikeLinear
from policies.value import ValueReadout

# Their linear layers count as decoders.
READOUTS = (ValueReadout,)


def _normalizer(
    _module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int
) -> LayerCount:
    count = args[0].numel() / samples
    return LayerCount(multiply_accumulates=count, dense=count, kind="encoder")


def _encoder(module: nn.Module, args: tuple[Any, ...], output: Any, samples: int) -> LayerCount:
    assert isinstance(module, PopulationEncoder)
    rate = float(output.mean()) if is_binary(output) else None
    count = 2.0 * module.mean.numel() * args[0].shape[0] / samples
    return LayerCount(multiply_accumulates=count, firing_rate=rate, dense=count, kind="encoder")


def _readout(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, PopulationReadout)
    x: Tensor = args[0]
    weight = module.weight.reshape(1, -1)
    membrane = isinstance(module, PopulationDecoder) and module.config.kind == "membrane"
    if isinstance(module, PopulationDecoder) and not membrane:
        x = x.sum(dim=0)  # spikes, [T, B, N] -> counts
    effective, dense = products(x, weight) / samples, x.numel() / samples
    if membrane:
        return LayerCount(accumulates=effective, dense=dense, kind="decoder", spiked=True)
    return LayerCount(multiply_accumulates=effective, dense=dense, kind="decoder", spiked=True)


def value_readout(
    module: nn.Module, args: tuple[Any, ...], output: Any, samples: int
) -> LayerCount:
    """A linear layer of a ValueReadout, on the rates of a population."""
    return replace(linear(module, args, output, samples), kind="decoder", spiked=True)


def _spike_linear(
    module: nn.Module, args: tuple[Any, ...], output: Any, samples: int
) -> LayerCount:
    assert isinstance(module, SpikeLinear)
    rule = linear if module.real_input else spiked
    return rule(module, args, output, samples)


def _intra_layer(_module: nn.Module, _args: Any, output: Any, samples: int) -> LayerCount:
    assert isinstance(_module, IntraLayer)
    weight = _module.weight
    spikes = output[0][:-1].unflatten(2, weight.shape[:2])  # [T - 1, B, A, P]
    fan_out = (weight != 0).sum(dim=1).double()  # [A, P]
    calls = spikes.shape[0] * spikes.shape[1]
    return LayerCount(
        accumulates=float(((spikes != 0) * fan_out).sum()) / samples,
        dense=calls * weight.numel() / samples,
        kind="linear",
        spiked=True,
        slots=calls * float(fan_out.sum()) / samples,
    )


def _neurons(_module: nn.Module, _args: tuple[Any, ...], output: Any, _samples: int) -> LayerCount:
    return LayerCount(firing_rate=float(output[0].mean()), kind="neurons")


POPULATION_RULES: dict[type[nn.Module], Rule] = {
    RunningNormalizer: _normalizer,
    PopulationEncoder: _encoder,
    PopulationReadout: _readout,
    SpikeLinear: _spike_linear,
    IntraLayer: _intra_layer,
    LIF: _neurons,
    CurrentLIF: _neurons,
}
