"""Faults planted in spiking transformers, for the tests of the doctor."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from policies.neurons import LIF
from policies.normalization import PTBN, TdBN, TdLN
from policies.surrogate import Surrogate
from policies.transformer import NormedLinear

# fault of the doctor -> name of what is planted, of those with several causes
PLANTED = {
    "dead by bias": "dead_layer",
    "dead by gain": "dead_layer",
    "high threshold": "high_threshold",
    "saturated": "saturated_layer",
    "vanishing surrogate": "vanishing_surrogate",
    "deaf head": "deaf_readout",
    "nan": "nan",
}


def plant(algo: Any, kind: str, rng: random.Random) -> str:
    """Break a random part of an algorithm's network, with random severity; the part's name."""
    core = algo.impl.network.backbone.transformer
    if kind == "deaf head":
        return _deaf(algo, rng)
    if kind == "nan":
        return _nan(core, rng)
    if kind in ("high threshold", "vanishing surrogate"):
        layers = {name: m for name, m in core.named_modules() if isinstance(m, LIF)}
        name: str = rng.choice(sorted(layers))
        _reset(layers[name], kind, rng)
        return name
    # Layers of a linear map, a norm and neurons: queries, keys, values, and the MLP's hidden one.
    names = [n for n, m in core.named_modules() if n.endswith(".current")]
    name = str(rng.choice(sorted(names)))
    layer = core.get_submodule(name)
    assert isinstance(layer, NormedLinear)
    _shift(layer, kind, rng)
    return name.removesuffix("current") + "neuron"


def _reset(neuron: Any, kind: str, rng: random.Random) -> None:
    config = neuron.config
    if kind == "high threshold":
        neuron.config = dataclasses.replace(config, v_threshold=rng.uniform(60.0, 200.0))
        return
    width = 10.0 ** rng.uniform(-7.0, -4.0)
    neuron.config = dataclasses.replace(config, surrogate_width=width)
    neuron.spike_fn = Surrogate(config.surrogate, width)


@torch.no_grad()
def _shift(layer: NormedLinear, kind: str, rng: random.Random) -> None:
    if kind == "saturated":
        _each(layer.norm, "bias", lambda b: b.fill_(rng.uniform(4.0, 12.0)))
    elif kind == "dead by bias":
        _each(layer.norm, "bias", lambda b: b.fill_(-rng.uniform(4.0, 12.0)))
    else:
        _each(layer.norm, "weight", lambda g: g.mul_(rng.uniform(0.0001, 0.05)))


def _each(norm: nn.Module, name: str, change: Callable[[Tensor], Any]) -> None:
    for module in norm.modules():
        if isinstance(module, nn.LayerNorm | TdBN | TdLN) and not isinstance(module, PTBN):
            change(getattr(module, name))


@torch.no_grad()
def _deaf(algo: Any, rng: random.Random) -> str:
    network = algo.impl.network
    row = rng.randrange(len(network.head.weight))
    network.head.weight[row] *= 10.0 ** rng.uniform(-8.0, -5.0)
    names = {module: name for name, module in network.named_modules()}
    return str(names[network.head])


@torch.no_grad()
def _nan(core: nn.Module, rng: random.Random) -> str:
    names = sorted(name for name, _ in core.named_parameters())
    name = rng.choice(names)
    flat = core.get_parameter(name).view(-1)
    flat[rng.randrange(len(flat))] = rng.choice([float("nan"), float("inf")])
    return name.rpartition(".")[0]
