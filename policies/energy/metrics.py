"""NeuroBench's metrics of any network of this project, under its names and by its definitions.

    Footprint           bytes of parameters and buffers
    ParameterCount      parameters
    ConnectionSparsity  weights that are 0, share of all of Linear, Conv and recurrent layers (of
                        the latter biases too), rounded to 4 digits
    ActivationSparsity  outputs that are 0, share of all of ReLU, Sigmoid and spiking layers
    SynapticOperations  of Linear and Conv layers, a sample: "Effective_MACs" and "Effective_ACs"
                        (weight and input not 0; AC where a layer's input is -1, 0 or 1 throughout)
                        and "Dense" (all products)
    MembraneUpdates     membranes that differ after a spike step from before, a sample; at the first
                        step all
    NeuronOperations    those times NeuroBench's operations an update: Leaky's for LIF, Synaptic's
                        for CurrentLIF; and the same for every membrane and step

A sample is one input of the batch, however many spike steps it takes: layers that run on
[T * B, ...] here count all T steps, as T calls on [B, ...] would.

NeuroBench sees what modules of known types do. So its synaptic operations leave out population
encoder and decoder, attention, norms and neurons; its membranes the encoder's.
`policies.energy.count_operations` counts more. Where it has no definition, the key is absent.

Source: Yik et al. 2025 (NeuroBench), version 2.3.0.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from policies.energy.count import evaluating, first_tensor
from policies.energy.torch_rules import TORCH_RULES
from policies.functional import (
    CurrentLIFState,
    Feedback,
    LIFState,
    current_lif_step,
    init_current_lif_state,
    init_lif_state,
    lif_step,
)
from policies.intra_layer import IntraLayer
from policies.neurons import LIF, CurrentLIF

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase, IntraLayer)
_ACTIVATIONS = (nn.ReLU, nn.Sigmoid)
# Operations of one update by reset, as snnTorch's neuron of the same equations.
_UPDATE = {LIF: {"soft": 4, "hard": 4}, CurrentLIF: {"soft": 6, "hard": 8}}

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


@torch.no_grad()
def neurobench_metrics(model: nn.Module, *inputs: Any) -> dict[str, Any]:
    """Run model once on a batch in evaluation mode and give NeuroBench's metrics.

    Args:
        model: any module whose forward takes the inputs.
        inputs: a batch; the first is [B, ...], or a list or mapping of such.

    Returns:
        figures by NeuroBench's names. Absent: "ConnectionSparsity" without weights;
        "SynapticOperations" where a recurrent layer ran, which NeuroBench does not count;
        "MembraneUpdates" and "NeuronOperations" without spiking layers.

    Raises:
        ValueError: if the batch is empty.
    """
    first = first_tensor(inputs)
    run = _Run(first.shape[0])
    with evaluating(model, first), run.watching(model):
        model(*inputs)
    parameters, footprint = size_of(model)
    metrics: dict[str, Any] = {"Footprint": footprint, "ParameterCount": parameters}
    weights = _weights(model)
    if weights:
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        metrics["ConnectionSparsity"] = round(zeros / sum(w.numel() for w in weights), 4)
    return metrics | run.metrics()


def size_of(model: nn.Module) -> tuple[int, int]:
    """ParameterCount and Footprint."""
    parts = (*model.parameters(), *model.buffers())
    footprint = sum(part.numel() * part.element_size() for part in parts)
    return sum(parameter.numel() for parameter in model.parameters()), footprint


def _weights(model: nn.Module) -> list[Tensor]:
    weights = []
    for module in model.modules():
        if isinstance(module, _WEIGHTED):
            weights.append(module.weight)
        elif isinstance(module, _RECURRENT):
            weights.extend(module.parameters(recurse=False))
    return weights


class _Run:
    """What layers did in one forward.

    Args:
        samples: B.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.zeros = self.outputs = 0
        self.effective = {"Effective_MACs": 0.0, "Effective_ACs": 0.0}
        self.dense = 0.0
        self.updates = self.operations = self.dense_operations = 0
        self.recurrent = self.spiking = False
        self._handles: list[Any] = []

    def watching(self, model: nn.Module) -> "_Run":
        """A context in which model's layers are watched."""
        kinds: tuple[tuple[Any, Hook], ...] = (
            (_WEIGHTED, self._connection),
            (_RECURRENT, self._recurrent),
            (_ACTIVATIONS, self._activation),
            ((LIF, CurrentLIF), self._neurons),
        )
        for module in model.modules():
            for types, hook in kinds:
                if isinstance(module, types):
                    self._handles.append(module.register_forward_hook(hook))
        return self

    def __enter__(self) -> None:
        """Nothing: the hooks are there."""

    def __exit__(self, *_error: object) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def metrics(self) -> dict[str, Any]:
        """What a run tells."""
        sparsity = self.zeros / self.outputs if self.outputs else 0.0
        metrics: dict[str, Any] = {"ActivationSparsity": sparsity}
        if not self.recurrent:
            metrics["SynapticOperations"] = {**self.effective, "Dense": self.dense}
        if self.spiking:
            metrics["MembraneUpdates"] = self.updates / self.samples
            metrics["NeuronOperations"] = {
                "Effective Neuron Ops": self.operations / self.samples,
                "Neuron Dense Ops": self.dense_operations / self.samples,
            }
        return metrics

    def _connection(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        rule = next(TORCH_RULES[kind] for kind in _WEIGHTED if isinstance(module, kind))
        count = rule(module, args, output, self.samples)
        x: Tensor = args[0]
        spikes = bool(((x == 0) | (x.abs() == 1)).all())
        kind = "Effective_ACs" if spikes else "Effective_MACs"
        self.effective[kind] += count.accumulates + count.multiply_accumulates
        self.dense += count.dense

    def _recurrent(self, _module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        self.recurrent = True

    def _activation(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self.outputs += output.numel()
        self.zeros += int((output == 0).sum())

    def _neurons(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, LIF | CurrentLIF)
        self._activation(module, args, output[0])
        state = args[1] if len(args) > 1 else None
        updates = _updates(module, args[0], state, args[2] if len(args) > 2 else None)
        each = _UPDATE[CurrentLIF if isinstance(module, CurrentLIF) else LIF]
        each_update = each[module.config.reset_mode]
        self.spiking = True
        self.updates += updates
        self.operations += updates * each_update
        self.dense_operations += args[0].numel() * each_update


def _updates(
    module: LIF | CurrentLIF,
    i_in_seq: Tensor,
    state: LIFState | CurrentLIFState | None,
    feedback: Feedback | None,
) -> int:
    """Membranes that a step changed, over all steps and samples; without a state, all at first."""
    updates = 0
    spikes: Tensor | None = None
    for i_in in i_in_seq:
        before = None if state is None else state.v
        if feedback is not None and spikes is not None:
            i_in = i_in + feedback(spikes)
        spikes, state = _step(module, i_in, state)
        updates += i_in.numel() if before is None else int((state.v != before).sum())
    return updates


def _step(
    module: LIF | CurrentLIF, i_in: Tensor, state: LIFState | CurrentLIFState | None
) -> tuple[Tensor, LIFState | CurrentLIFState]:
    if isinstance(module, CurrentLIF):
        assert not isinstance(state, LIFState)
        old = init_current_lif_state(i_in) if state is None else state
        return current_lif_step(i_in, old, module.config, module.spike_fn)
    assert not isinstance(state, CurrentLIFState)
    start = init_lif_state(i_in) if state is None else state
    return lif_step(i_in, start, module.config, module.spike_fn)
