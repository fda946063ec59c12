"""Policies as TorchScript and ONNX files."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from d3rlpy.constants import ActionSpace
from torch import Tensor, nn

from policies.files import write_atomically

# nn.LayerNorm is one operator from here on.
OPSET = 17


class _Policy(nn.Module):
    """One context without batch axis -> one action; what is traced."""

    def __init__(self, algo: Any) -> None:
        super().__init__()
        self.network = copy.deepcopy(algo.impl.network).eval().requires_grad_(False)
        self.discrete = algo.get_action_type() == ActionSpace.DISCRETE
        self.observation_scaler = algo.config.observation_scaler
        self.action_scaler = algo.config.action_scaler
        self.reward_scaler = algo.config.reward_scaler

    def forward(self, *inputs: Tensor) -> Tensor:
        *observations, actions, returns_to_go, timesteps = (x.unsqueeze(0) for x in inputs)
        x: Any = observations[0] if len(observations) == 1 else observations
        if self.observation_scaler is not None:
            x = self.observation_scaler.transform(x)
        if self.action_scaler is not None:
            actions = self.action_scaler.transform(actions)
        # Unlike d3rlpy's own files, these scale returns as `predict` does.
        if self.reward_scaler is not None:
            returns_to_go = self.reward_scaler.transform(returns_to_go)
        padding = torch.zeros_like(returns_to_go[..., 0])
        out = self.network(x, actions, returns_to_go, timesteps.long(), padding)
        values: Tensor = (out[1] if isinstance(out, tuple) else out)[0, -1]
        # DSFormer reads no timestep, and an input that nothing reads would not be in the file.
        values = values + 0.0 * timesteps.sum()
        if self.discrete:
            return values.argmax()
        if self.action_scaler is not None:
            values = self.action_scaler.reverse_transform(values)
        return values


def save_policy(algo: Any, fname: str) -> None:
    """Trace a built algorithm's network over a full context and save it.

    Inputs: the observations [L, ...] (one each for tuple observations), actions [L, A] or [L, 1],
    returns-to-go [L, 1], timesteps [L]. Output: action [A], or its index.

    Args:
        algo: a spiking transformer algorithm.
        fname: ends in .pt (TorchScript) or .onnx.

    Raises:
        ValueError: if it ends in neither, or nothing is built yet.
    """
    suffix = Path(fname).suffix
    if suffix not in (".pt", ".onnx"):
        raise ValueError(f"fname must end in '.pt' (TorchScript) or '.onnx', got {fname!r}")
    if algo.impl is None:
        raise ValueError("nothing to export yet: train or load the algorithm first")
    inputs = _examples(algo)
    with torch.no_grad(), warnings.catch_warnings():
        # The graph holds one context length and one batch, as the tracer says several times.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Policy(algo).to(algo.impl.device), inputs, check_trace=False)

    def write(name: str) -> None:
        if suffix == ".pt":
            traced.save(name)
        else:
            _save_onnx(traced, inputs, name)

    write_atomically(fname, write)


def _examples(algo: Any) -> tuple[Tensor, ...]:
    length, shape = algo.config.context_size, algo.impl.observation_shape
    device = algo.impl.device
    shapes = shape if isinstance(shape[0], tuple | list) else [shape]
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    return (
        *(torch.rand(length, *s, device=device) for s in shapes),
        torch.zeros(length, 1 if discrete else algo.impl.action_size, device=device),
        torch.rand(length, 1, device=device),
        torch.arange(length, device=device),
    )


def _save_onnx(traced: Any, inputs: tuple[Tensor, ...], name: str) -> None:
    names = [f"observation_{i}" for i in range(len(inputs) - 3)]
    with warnings.catch_warnings():
        # torch points to its newer exporter, which does not take traced modules.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            traced,
            inputs,
            name,
            opset_version=OPSET,
            input_names=[*names, "action", "return_to_go", "timestep"],
            output_names=["output_0"],
            dynamo=False,
        )
