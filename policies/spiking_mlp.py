"""Layers of spiking neurons: linear layers on spikes, and a feed-forward stack of them."""

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from policies.batch_norm import CurrentNorm, add_norm
from policies.checks import fault_mark
from policies.config import CurrentLIFConfig, EncoderKind, NeuronConfig
from policies.intra_layer import IntraLayer
from policies.kernels.batch_norm import StackNorms
from policies.kernels.choice import Kernel, Matmul, MatmulBackward, pick
from policies.kernels.guard import looked_at, transformed, without_autocast
from policies.kernels.matmul import WeightCache, gradient_dtype, in_force, real_linear, spike_linear
from policies.kernels.neuron import Neurons, load
from policies.kernels.stack import Stack, run_stack
from policies.neurons import make_neuron
from policies.surrogate import Surrogate
from policies.synops import charged, spike_prices


class SpikeLinear(nn.Linear):
    """A linear layer on spikes [..., in] -> currents [..., out], in the arithmetic of `matmul`.

    Args:
        n_in: neurons that send.
        n_out: neurons that receive.
        matmul: see policies.kernels.matmul.
        grad_dtype: dtype of the operands of backward matmuls.
        real_input: the input is not spikes but real numbers.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        matmul: Matmul = "float32",
        grad_dtype: torch.dtype = torch.float32,
        real_input: bool = False,
    ) -> None:
        super().__init__(n_in, n_out)
        self.matmul = matmul
        self.grad_dtype = grad_dtype
        self.real_input = real_input
        self.cached = WeightCache()
        self.norm: CurrentNorm | None = None

    def learns_statistics(self, batch: int) -> bool:
        """Whether currents are normalized by their own batch; one sample has no statistics."""
        if self.norm is None or not self.training or not torch.is_grad_enabled():
            return False
        if batch < 2:
            self.norm.skip()
        return batch > 1

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight [out, in] and bias [out], with the norm's moving statistics in them."""
        norm = self.norm
        return (self.weight, self.bias) if norm is None else norm.fold(self.weight, self.bias)

    def forward(self, spikes: Tensor) -> Tensor:
        """Currents of spikes, under autocast to bfloat16 those of "bf16".

        PyTorch's own for tracers, functorch, autocast to float16 and other dtypes. A norm that
        learns its statistics takes [T, B, in], with [B, in] for T = 1.
        """
        if self.norm is None or not self.learns_statistics(spikes.shape[-2]):
            return self._currents(spikes, *self.folded())
        raw = self.raw_currents(spikes)
        normed: Tensor = self.norm(raw.view(-1, *raw.shape[-2:]), self.bias)
        return normed.view(raw.shape)

    def raw_currents(self, spikes: Tensor) -> Tensor:
        """Currents of spikes without bias and norm."""
        return self._currents(spikes, self.weight, torch.zeros_like(self.bias))

    def _currents(self, spikes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if transformed(spikes.device) or self.weight.dtype != torch.float32:
            currents: Tensor = linear(spikes, weight, bias)
            return currents
        matmul, grad_dtype = in_force(self.matmul, self.grad_dtype, spikes.device)
        if self.real_input:
            with without_autocast(spikes.device) if matmul == "bf16" else nullcontext():
                return real_linear(spikes, weight, bias, matmul)
        flat = spikes.reshape(-1, spikes.shape[-1])
        currents = spike_linear(flat, weight, bias, matmul, self.cached, grad_dtype)
        return currents.view(*spikes.shape[:-1], self.out_features)


class SpikingMLP(nn.Module):
    """A feed-forward stack of (Linear -> spiking neuron): spikes [T, B, in] -> spikes [T, B, out].

    All T spike steps of a layer go through one matmul; state starts at 0 in every call.

    Under autocast to bfloat16 it computes what it would with `matmul="bf16"` and
    `matmul_backward="bf16"`, bit for bit: spikes times weights in bfloat16, all else in float32.

    Args:
        sizes: neurons of the input and of each layer, at least two numbers.
        neuron: settings of every layer's neurons.
        matmul: arithmetic of spikes times weights; see policies.kernels.matmul. "exact" takes
            nothing but spikes, 0 or 1.
        matmul_backward: "float32" or "bf16" operands in backward; "auto": as `matmul`.
        kernel: what runs the neurons; see policies.kernels.choice.
        analog: the input is one real activation for all steps, not spikes.
        intra_populations: populations of the last layer inside which spikes feed back; 0: none
            does. See policies.intra_layer.
        synops_penalty: see policies.synops; the input's spikes are not charged here.
        batch_norm: normalize each layer's currents; see policies.batch_norm.

    Raises:
        ValueError: if fewer than two sizes are given.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        neuron: NeuronConfig | None = None,
        *,
        matmul: Matmul = "float32",
        matmul_backward: MatmulBackward = "auto",
        kernel: Kernel = "auto",
        analog: bool = False,
        intra_populations: int = 0,
        synops_penalty: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must name the input and at least one layer, got {list(sizes)}")
        neuron = CurrentLIFConfig() if neuron is None else neuron
        self.matmul = matmul
        self.kernel = kernel
        self.synops_penalty = synops_penalty
        self.grad_dtype = gradient_dtype(matmul, matmul_backward)
        self.linears = nn.ModuleList(
            SpikeLinear(n_in, n_out, matmul, self.grad_dtype, analog and layer == 0)
            for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        )
        self.neurons = nn.ModuleList(make_neuron(neuron) for _ in sizes[1:])
        self.intra_layer: IntraLayer | None = None
        if intra_populations:
            pop_size, rest = divmod(sizes[-1], intra_populations)
            if rest:
                raise ValueError(f"{sizes[-1]} neurons are not {intra_populations} populations")
            self.intra_layer = IntraLayer(intra_populations, pop_size, matmul, self.grad_dtype)
        if batch_norm:
            for layer in self.layers():
                add_norm(layer, neuron.v_threshold)

    def forward(self, spikes_seq: Tensor) -> Tensor:
        """Propagate a spike train through all layers.

        Samples with a NaN or infinite membrane in any layer come out as NaN.
        """
        if spikes_seq.dim() != 3:
            raise ValueError(
                f"spikes_seq must be [T, B, N] (time first), got {tuple(spikes_seq.shape)}"
            )
        if spikes_seq.shape[0] == 0:
            raise ValueError("spikes_seq must have T >= 1 spike steps, got T = 0")
        if not self._is_analog() and self.fast(spikes_seq):
            return self.run(spikes_seq, spikes_seq.shape[0])
        return self._plain(spikes_seq, 0)

    def _plain(self, spikes_seq: Tensor, first: int) -> Tensor:
        """Layers from number `first` on, module by module."""
        # An integer has no NaN: what the input marks must not get lost in the matmul.
        fault: Tensor = 0.0 * spikes_seq.detach().sum(dim=(0, 2)).unsqueeze(-1)
        last, prices = len(self.linears) - 1, self.prices(spikes_seq)
        for layer in range(first, last + 1):
            currents, neuron = _currents(self.linears[layer], spikes_seq), self.neurons[layer]
            if layer == last and self.intra_layer is not None:
                addition = prices[-1] if prices else 0.0
                spikes_seq, state = self.intra_layer(currents, neuron, addition)
            else:
                spikes_seq, state = neuron(currents)
            # A membrane that broke at any step is still broken after the last.
            fault = fault + fault_mark(state.v)
            if prices:
                spikes_seq = charged(spikes_seq, prices[layer + 1])
        return spikes_seq + fault

    def prices(self, x: Tensor) -> list[float]:
        """What a spike of input x [..., B, in] and of each layer is charged; empty: nothing is."""
        if not (self.synops_penalty and self.training and torch.is_grad_enabled()):
            return []
        fan_out = [layer.out_features for layer in self.layers()] + [1]
        return spike_prices(self.synops_penalty, fan_out, x.shape[-2], x.device)

    def _is_analog(self) -> bool:
        return bool(getattr(self.linears[0], "real_input", False))

    def fast(self, x: Tensor, *others: nn.Module) -> bool:
        """Whether a kernel may stand in for the modules here (and `others`) on input x.

        It may not where something looks at single modules or differentiates the plain operations.
        """
        # First: `pick` logs, which a compiler must not see.
        if transformed(x.device) or x.dtype != torch.float32:
            return False
        if pick(self.kernel, x.device) == "torch":
            return False
        # Not `modules()`, nor attributes, which take longer than a decision.
        parts: Any = self._modules
        linears, neurons = parts["linears"]._modules, parts["neurons"]._modules
        intra = self.intra_layer
        if intra is not None:
            if type(intra) is not IntraLayer or intra.weight.dtype != torch.float32:
                return False
            if len(linears) == 1:
                return False  # no layer is left for a kernel
            others = (*others, intra)
        return not (
            looked_at((self, *others, *linears.values(), *neurons.values()))
            or not _alike(list(neurons.values()))
            or any(
                type(layer) is not SpikeLinear or layer.weight.dtype != torch.float32
                for layer in linears.values()
            )
        )

    def run(
        self,
        x: Tensor,
        spike_steps: int,
        encoder: EncoderKind | None = None,
        encoder_threshold: float = 1.0,
        encoder_start: float = 0.0,
    ) -> Tensor:
        """As `forward`, in one function; x is spikes, or activations [B, in] with an encoder.

        Neurons that feed their spikes back run behind it, module by module.
        """
        layers = self.layers() if self.intra_layer is None else self.layers()[:-1]
        matmul, grad_dtype = in_force(self.matmul, self.grad_dtype, x.device)
        norms = self._norms(x)
        stack = Stack(
            load(pick(self.kernel, x.device)),
            self.neuron_settings(),
            encoder,
            spike_steps,
            encoder_threshold,
            encoder_start,
            matmul,
            grad_dtype,
            [linear.cached for linear in layers],
            self.prices(x)[: len(layers) + 1],
            norms,
        )
        if norms is not None:
            parameters: list[tuple[Tensor, Tensor]] = [(n.weight, n.bias) for n in layers]
        else:
            parameters = [linear.folded() for linear in layers]
        weights, biases = zip(*parameters, strict=True)
        spikes = run_stack(stack, x, weights, biases)
        return spikes if self.intra_layer is None else self._plain(spikes, len(layers))

    def _norms(self, x: Tensor) -> StackNorms | None:
        """What normalizes the layers by their batch, where something shall."""
        found = [layer.norm for layer in self.layers() if layer.learns_statistics(x.shape[-2])]
        norms = [norm for norm in found if norm is not None]
        if not norms:
            return None
        compiled = pick(self.kernel, x.device) == "numba"
        return StackNorms([n.gain for n in norms], [n.follow for n in norms], compiled)

    def layers(self) -> list[SpikeLinear]:
        """The linear layers."""
        return cast(list[SpikeLinear], list(self.linears))

    def neuron_settings(self) -> Neurons:
        """Settings of every layer's neurons, with the surrogate that they have now."""
        neuron: Any = self.neurons[0]
        return Neurons(neuron.config, neuron.spike_fn)


def _alike(neurons: list[Any]) -> bool:
    """Whether all layers' neurons are those of the first, with a surrogate that kernels know."""
    first = neurons[0]
    spike_fn = first.spike_fn
    if type(spike_fn) is not Surrogate:
        return False
    for neuron in neurons:
        other = neuron.spike_fn
        if (
            type(neuron) is not type(first)
            or type(other) is not Surrogate
            or (other.name, other.width) != (spike_fn.name, spike_fn.width)
            or not (neuron.config is first.config or neuron.config == first.config)
        ):
            return False
    return True


def _currents(layer: nn.Module, spikes_seq: Tensor) -> Tensor:
    """Currents [T, B, out] of a layer's input [T, B, in]."""
    if getattr(layer, "real_input", False):  # the same at each step
        current: Tensor = layer(spikes_seq[0])
        return current.expand(len(spikes_seq), -1, -1)
    if isinstance(layer, SpikeLinear) and layer.norm is not None:  # it tells steps from samples
        normed: Tensor = layer(spikes_seq)
        return normed
    currents: Tensor = layer(spikes_seq.flatten(0, 1))  # [T, B, in] -> [T * B, out]
    out: Tensor = currents.unflatten(0, spikes_seq.shape[:2])
    return out
