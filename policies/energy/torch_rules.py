"""Counting rules for PyTorch's own layers.

Linear, Conv    products whose input and weight are both not 0
RNN, LSTM, GRU  likewise for the layer's input; states and the input of further layers count as
                not 0, except a state that starts at 0. LSTM and GRU add three products a unit
                and step, of gates with states
RNN cells       as a layer of one step; which states are 0 is looked at
MultiheadAttention
                projections (that of the result with all its inputs), a product a feature for
                scores and for values, two a head, for scale and normalization, of every pair of
                a query and a key: masks are not looked at
norms           batch norm on running statistics one product a value; others two (the deviation
                and the gain), their statistics left out
Embedding       nothing: a row is looked up
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from policies.energy.layer_count import LayerCount, Rule, on_input, products

# Products of gates with states, a unit and step.
_GATE_PRODUCTS = {nn.LSTM: 3, nn.GRU: 3, nn.RNN: 0, nn.LSTMCell: 3, nn.GRUCell: 3, nn.RNNCell: 0}


def linear(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """A linear layer, whatever its input."""
    assert isinstance(module, nn.Linear)
    x: Tensor = args[0]
    dense = x.numel() * module.out_features / samples
    return on_input(x, products(x, module.weight) / samples, dense, "linear")


def spiked(module: nn.Module, args: tuple[Any, ...], output: Any, samples: int) -> LayerCount:
    """A linear layer that is fed by neurons."""
    assert isinstance(module, nn.Linear)
    count = linear(module, args, output, samples)
    if count.multiply_accumulates:
        return count  # someone fed it something else
    calls = args[0].numel() / module.in_features
    slots = calls * float((module.weight != 0).sum()) / samples
    return replace(count, spiked=True, slots=slots)


def _convolution(
    module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int
) -> LayerCount:
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    x: Tensor = args[0]

    def total(inputs: Tensor, weights: Tensor) -> float:
        # A convolution of ones counts, whatever stride, padding and groups do.
        return float(module._conv_forward(inputs.double(), weights.double(), None).sum())

    effective = total(x != 0, module.weight != 0)
    dense = total(torch.ones_like(x), torch.ones_like(module.weight))
    return on_input(x, effective / samples, dense / samples, "linear")


def _recurrent(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, nn.RNNBase)
    packed = isinstance(args[0], nn.utils.rnn.PackedSequence)
    x: Tensor = args[0].data if packed else args[0]
    states = args[1] if len(args) > 1 else None
    steps = x.numel() / module.input_size  # of all sequences together
    starts = _sequences(module, args[0]) if _is_zero(states) else 0.0
    first = inner = dense = 0.0
    for name, weight in module.named_parameters():
        nonzero = float((weight != 0).sum())
        if name.startswith("bias"):
            continue
        dense += steps * weight.numel()
        if name.startswith("weight_ih_l0"):
            first += products(x, weight)
        elif name.startswith("weight_hh"):
            inner += (steps - starts) * nonzero
        else:
            inner += steps * nonzero
    gates = steps * _gates(module) * module.num_layers * (2 if module.bidirectional else 1)
    return _with_states(x, first, inner + gates, dense + gates, samples)


def _cell(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, nn.RNNCellBase)
    x: Tensor = args[0]
    states = args[1] if len(args) > 1 else None
    hidden = states[0] if isinstance(states, tuple) else states
    inner = 0.0 if hidden is None else products(hidden, module.weight_hh)
    steps = x.numel() / module.input_size
    gates = steps * _gates(module)
    dense = steps * (module.weight_ih.numel() + module.weight_hh.numel()) + gates
    return _with_states(x, products(x, module.weight_ih), inner + gates, dense, samples)


def _gates(module: nn.RNNBase | nn.RNNCellBase) -> int:
    """Products of gates with states in a step of one layer and direction."""
    each = next(n for kind, n in _GATE_PRODUCTS.items() if isinstance(module, kind))
    return each * int(module.hidden_size)


def _sequences(module: nn.RNNBase, x: Any) -> float:
    if isinstance(x, nn.utils.rnn.PackedSequence):
        return float(x.batch_sizes[0])
    if x.dim() == 2:
        return 1.0
    return float(x.shape[0 if module.batch_first else 1])


def _is_zero(states: Any) -> bool:
    hidden = states[0] if isinstance(states, tuple) else states
    return hidden is None or not bool(hidden.any())


def _with_states(x: Tensor, first: float, inner: float, dense: float, samples: int) -> LayerCount:
    """What meets the input x follows its form; states are real numbers."""
    count = on_input(x, first / samples, dense / samples, "linear")
    states = LayerCount(multiply_accumulates=inner / samples, kind="linear", calls=0)
    return count + states


def _multi_head(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, nn.MultiheadAttention)
    width = module.embed_dim
    weights = (
        module.in_proj_weight.chunk(3)
        if module.in_proj_weight is not None
        else (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    )
    effective = dense = 0.0
    for x, weight in zip(args[:3], weights, strict=True):
        effective += products(x, weight)
        dense += x.numel() * width
    query, key = args[0], args[1]
    axis = 0 if module.batch_first else 1
    batch = query.shape[axis] if query.dim() == 3 else 1
    queries, keys = query.numel() / width, key.numel() / module.kdim / batch
    mixed = queries * keys * 2.0 * (width + module.num_heads)
    out = queries * float((module.out_proj.weight != 0).sum())
    return LayerCount(
        multiply_accumulates=(effective + mixed + out) / samples,
        dense=(dense + mixed + queries * width * width) / samples,
        kind="attention",
    )


def norm_count(x: Tensor, each: float, samples: int) -> LayerCount:
    """Counts of a norm of x with so many products a value."""
    count = each * x.numel() / samples
    return LayerCount(multiply_accumulates=count, dense=count, kind="norm")


def _norm(_module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    return norm_count(args[0], 2.0, samples)


def batch_norm(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """Batch norm in evaluation mode."""
    return norm_count(args[0], 1.0 if is_foldable(module) else 2.0, samples)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm: PyTorch's, or CrossQ's batch renormalization.

    The latter is sb3_contrib's, which this package does not import: it is known by its statistics.
    """
    return isinstance(module, _BatchNorm) or {"ra_mean", "ra_var"} <= module._buffers.keys()


def is_foldable(module: nn.Module) -> bool:
    """Whether a batch norm is, in evaluation mode, constants that can go into a linear layer."""
    return not isinstance(module, _BatchNorm) or module.running_mean is not None


def _nothing(_module: nn.Module, _args: tuple[Any, ...], _output: Any, _samples: int) -> LayerCount:
    return LayerCount()


TORCH_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.MultiheadAttention: _multi_head,
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
    nn.GroupNorm: _norm,
    _InstanceNorm: _norm,
    nn.Embedding: _nothing,
}
