"""A spiking network as SANA-FE's Loihi model takes it: scaled, biased and placed on cores.

SANA-FE's Loihi neuron charges and fires as policies.functional does (v_decay is its leak_decay,
i_decay its input_decay; strict threshold; hard or soft reset to 0), in double precision, but cuts
the decayed membrane to multiples of 1/64 in an int. So weights, biases and threshold of a layer are
scaled jointly by a power of two that makes 1/64 as small as the int allows: about 2^-30 of the
largest membrane that the weights could cause. Nothing is rounded to the chip's 8 bits.

Its own bias would charge a layer before the first input reaches it, and past the current filter:
biases come as synapses of one neuron on each core that fires T times.

Source: Davies et al. 2018 (Loihi), sizes of a core; Boyle et al. 2025 (SANA-FE).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.actor import PopulationBody
from policies.config import CurrentLIFConfig, NeuronConfig
from policies.energy.count import evaluating
from policies.kernels.matmul import split
from policies.spiking_mlp import SpikeLinear

# One Loihi chip.
CORES = 128
CORE_NEURONS = 1024
CORE_AXONS = 4096
CORE_SYNAPSES = 128 * 1024  # bytes, so weights of 8 bits
# |v| stays below: 1/64 of it fits an int with a bit to spare.
_LARGEST_V = 2.0**24


@dataclass(frozen=True)
class ChipNetwork:
    """A network that fits the chip.

    Attributes:
        header: see policies.energy.loihi_process, without the protocol.
        arrays: weightK and biasK of each layer.
        cores: how many it takes, with those of the inputs.
        fan_out: weights that a spike fetches, [in] of each layer.
        bias_synapses: weights that the biases of all layers fetch in a spike step.
    """

    header: dict[str, Any]
    arrays: dict[str, NDArray[np.float32]]
    cores: int
    fan_out: list[NDArray[np.int64]]
    bias_synapses: int


@torch.no_grad()
def spike_trains(
    actor: PopulationBody, observations: Tensor, *, deterministic: bool = False
) -> list[Tensor]:
    """Spikes of the encoder and of each layer, [T, B, N] each, on the actor's device.

    Poisson draws leave torch's global generator as it was; a deterministic pass has none.

    Raises:
        ValueError: if an activation or a membrane is NaN or infinite, or spikes feed back.
    """
    _check_forward_only(actor)
    obs = observations.to(actor.encoder.mean.device, actor.encoder.mean.dtype)
    devices = [obs.device] if obs.device.type == "cuda" else []
    with evaluating(actor), torch.random.fork_rng(devices):
        if actor.normalizer is not None:
            obs = actor.normalizer(obs)
        trains: list[Tensor] = [actor.encoder(obs, deterministic)]
        if not torch.isfinite(trains[0]).all():
            raise ValueError(
                "observations must be finite, and finite behind the actor's normalizer and "
                "receptive fields: the encoder gave NaN"
            )
        for layer, neuron in zip(actor.mlp.layers(), actor.mlp.neurons, strict=True):
            spikes = trains[-1]
            currents = layer(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
            spikes, state = neuron(currents)
            if not torch.isfinite(state.v).all():
                raise ValueError("a membrane became NaN or infinite: look for weights that are")
            trains.append(spikes)
    return trains


@torch.no_grad()
def chip_network(actor: PopulationBody) -> ChipNetwork:
    """The layers of an actor on one Loihi chip.

    Raises:
        ValueError: if a weight is NaN or infinite, the chip is too small, or spikes feed back.
    """
    _check_forward_only(actor)
    layers, steps = actor.mlp.layers(), actor.config.spike_steps
    free = iter(range(CORES))
    placed = _Placed(free)
    inputs = placed.place("the encoder", layers[0].in_features, CORE_NEURONS)
    header: dict[str, Any] = {"spike_steps": steps, "inputs": inputs, "layers": []}
    arrays: dict[str, NDArray[np.float32]] = {}
    fan_out, bias_synapses = [], 0
    for index, (layer, neuron) in enumerate(zip(layers, actor.mlp.neurons, strict=True)):
        name = f"mlp.linears.{index}"
        weight, bias = _weights(name, layer)
        cores = placed.place(name, layer.out_features, _neurons_a_core(name, weight, bias))
        config: Any = neuron.config
        scale = _scale(weight, bias, config, steps + len(layers))
        header["layers"].append({"neuron": _neuron(config, scale), "cores": cores})
        arrays[f"weight{index}"] = (weight * scale).astype(np.float32)
        arrays[f"bias{index}"] = (bias * scale).astype(np.float32)
        fan_out.append(np.count_nonzero(weight, axis=0))
        bias_synapses += int(np.count_nonzero(bias))
    return ChipNetwork(header, arrays, placed.used, fan_out, bias_synapses)


def _check_forward_only(actor: PopulationBody) -> None:
    if actor.mlp.intra_layer is not None:
        raise ValueError(
            "intra_layer=True feeds spikes back inside the output populations, and only networks "
            "whose spikes go forward are put on the simulated chip: count its operations with "
            "policies.energy.count_operations"
        )


class _Placed:
    """Cores handed out one after the other."""

    def __init__(self, free: Iterator[int]) -> None:
        self._free = free
        self.used = 0

    def place(self, name: str, neurons: int, most: int) -> list[list[int]]:
        """[core, start, stop] for neurons, about evenly on as few cores as they need."""
        count = -(-neurons // most)
        self.used += count
        if self.used > CORES:
            raise ValueError(
                f"the network is too large for one Loihi chip: with {name} it needs {self.used} "
                f"cores of {CORES} ({CORE_NEURONS} neurons and {CORE_SYNAPSES} weights a core)"
            )
        bounds = [neurons * part // count for part in range(count + 1)]
        return [[next(self._free), *bound] for bound in pairwise(bounds)]


def _neurons_a_core(name: str, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> int:
    biased = int(np.any(bias))  # one neuron more, and a weight more for each neuron
    fan_in = int(weight.shape[1]) + biased
    if fan_in > CORE_AXONS:
        raise ValueError(
            f"the network is too large for a Loihi chip: {name} has {fan_in} inputs (its bias "
            f"is one), a core takes {CORE_AXONS}"
        )
    return min(CORE_NEURONS - biased, CORE_SYNAPSES // fan_in)


def _weights(name: str, layer: SpikeLinear) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight and bias as the layer's arithmetic has them."""
    weight, bias = layer.folded()
    for part, values in (("weight", weight), ("bias", bias)):
        if not torch.isfinite(values).all():
            raise ValueError(f"{name}.{part} must be finite, got NaN or infinity")
    if weight.dtype == torch.float32 and layer.matmul == "exact":
        parts = split(weight)
        weight = parts.integers(torch.float64) * parts.scale.double().unsqueeze(1)
    elif weight.dtype == torch.float32 and layer.matmul == "bf16":
        weight = weight.bfloat16()
    return weight.double().cpu().numpy(), bias.double().cpu().numpy()


def _scale(
    weight: NDArray[np.float64], bias: NDArray[np.float64], config: NeuronConfig, steps: int
) -> float:
    """The largest power of two that keeps every membrane below _LARGEST_V, come what may."""
    strongest = max(
        float((np.maximum(sign * weight, 0).sum(axis=1) + np.abs(bias)).max()) for sign in (1, -1)
    )
    current = v = 0.0
    for _ in range(steps):
        current = strongest + _i_decay(config) * current
        v = current + config.v_decay * v
    v = max(v, config.v_threshold)
    return float(2.0 ** math.floor(math.log2(_LARGEST_V / v)))


def _i_decay(config: NeuronConfig) -> float:
    return config.i_decay if isinstance(config, CurrentLIFConfig) else 0.0


def _neuron(config: NeuronConfig, scale: float) -> dict[str, float | str]:
    """Attributes of SANA-FE's "leaky_integrate_fire", which reads them as float32."""
    return {
        "threshold": config.v_threshold * scale,
        "leak_decay": float(config.v_decay),
        "input_decay": float(_i_decay(config)),
        "reset_mode": config.reset_mode,
        "reset": 0.0,
    }
