"""Whether compiled code may stand in for a transformer's modules: those it was built of may.

Compiled code reads weights and settings and calls no module. A module that was replaced, wrapped,
pruned, frozen or given another setting would be ignored in silence, so its presence is looked for
at every call, and PyTorch's own operations run instead.
"""

import dataclasses
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from policies.attention import (
    PositionalAttention,
    SoftmaxAttention,
    StepAttention,
    TemporalAttention,
)
from policies.config import LIFConfig
from policies.neurons import LIF
from policies.normalization import PTBN, Folded, TdBN, TdLN
from policies.rates import only_rates
from policies.surrogate import Surrogate

# What the compiled loops have built in.
EPS, MOMENTUM = 1e-5, 0.1


def trains_as_built(transformer: Any) -> bool:
    """Whether compiled training computes what the modules would.

    Also False for what it does not know: the other variant of PTBN, and folded norms.
    """
    wanted = {"ptbn": PTBN, "tdbn": TdBN, "tdln": TdLN}.get(transformer.config.normalization)
    for module in transformer.modules():
        if not module.training and not isinstance(module, nn.Dropout):
            return False
        norm = module._modules.get("norm")
        if norm is not None and type(norm) is not wanted:
            return False
        if isinstance(module, PTBN) and (module.layer_steps or module.shortcut is not None):
            return False
    return as_built(transformer)


def as_built(transformer: Any) -> bool:
    """Whether all modules are what the config asks for, in float32, with no hooks but for rates."""
    floats = (t for t in (*transformer.parameters(), *transformer.buffers()) if _is_float(t))
    if any(t.dtype != torch.float32 for t in floats):
        return False
    config = transformer.config
    mix = dataclasses.replace(config.neuron, surrogate_width=config.mix_surrogate_width)
    neurons = (config.neuron, mix)
    # The whole itself may be a subclass: its forward has got here.
    known = _types()
    for module in transformer.modules():
        if module is not transformer and (type(module) not in known or "forward" in vars(module)):
            return False
        if not _settings(module, config, neurons):
            return False
    return _one_kind(transformer) and only_rates(transformer)


@cache
def _types() -> frozenset[type]:
    """What networks are built of; not what is derived from it."""
    from policies import transformer as parts  # it imports this file

    return frozenset(
        {
            nn.ModuleList, nn.Dropout, nn.LayerNorm, LIF, TdLN, TdBN, PTBN, Folded,
            PositionalAttention, TemporalAttention, StepAttention, SoftmaxAttention,
            parts.SpikingBlock, parts.SpikingSelfAttention, parts.SpikingFeedForward,
            parts.SpikingLayer, parts.NormedLinear, parts.SpikeLinear,
        }
    )  # fmt: skip


def _settings(module: nn.Module, config: Any, neurons: tuple[LIFConfig, LIFConfig]) -> bool:
    """Whether a module is set as the config says; modules of other kinds have no settings."""
    if isinstance(module, LIF):
        return _standard_neuron(module, neurons)
    if isinstance(module, nn.Linear):
        return _has_parameters(module) and getattr(module, "matmul", None) == config.matmul
    if isinstance(module, nn.LayerNorm):
        return _has_parameters(module) and module.eps == EPS
    if isinstance(module, TdBN):
        usual = module.eps == EPS and module.momentum == MOMENTUM
        tracks = module.running_mean is not None and module.running_var is not None
        return _has_parameters(module) and usual and tracks and _masks(module, config)
    return True


def _masks(norm: TdBN, config: Any) -> bool:
    return bool(norm.masked == config.mask_statistics)


def _standard_neuron(neuron: LIF, configs: tuple[LIFConfig, LIFConfig]) -> bool:
    fn, config = neuron.spike_fn, neuron.config
    if type(fn) is not Surrogate or type(config) is not LIFConfig or config not in configs:
        return False
    return fn.name == config.surrogate and fn.width == config.surrogate_width


def _has_parameters(module: nn.Module) -> bool:
    """Whether weight and bias are there, neither pruned nor reparametrized."""
    parameters = module._parameters
    return type(parameters.get("weight")) is type(parameters.get("bias")) is nn.Parameter


def _one_kind(transformer: Any) -> bool:
    """Whether what compiled code takes from one place holds everywhere.

    That is mixing, neurons, norms and the processes that share their statistics.
    """
    attention = [block.attention for block in transformer.blocks]
    if len({type(branch.mix) for branch in attention}) > 1:
        return False
    for branch in attention:
        layers = (branch.query, branch.key, branch.value)
        if len({layer.neuron.config for layer in layers}) > 1:
            return False
    shared = [module.sums for module in transformer.modules() if isinstance(module, TdBN)]
    if any(sums != shared[0] for sums in shared):
        return False
    norms = {type(module._modules.get("norm")) for module in transformer.modules()}
    return norms <= {TdLN, type(None)} or TdLN not in norms


def _is_float(x: Tensor) -> bool:
    return x.is_floating_point()
