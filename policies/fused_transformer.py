"""The spiking transformer through compiled layers: training on a CPU.

Query, key and value are one matmul; what follows a matmul, up to the spikes that enter the next
one, is one pass over memory. Parameters stay in the modules of `policies.transformer` under their
own names. All modules of one transformer run so, or none.
"""

from typing import Any

import torch
from torch import Tensor, nn

from policies.attention import PositionalAttention
from policies.fused_attention import positional_lif
from policies.fused_layers import Emitted, join, norm_inputs, normed_lif
from policies.kernels.choice import pick
from policies.kernels.guard import transformed
from policies.neurons import LIF
from policies.normalization import PTBN, TdBN, TdLN
from policies.rates import only_rates, report
from policies.surrogate import Surrogate


def runs_fused(transformer: Any, x: Tensor, theta: float | Tensor) -> bool:
    """Whether the compiled layers can run: numba, float32, training, and nothing that looks inside.

    The other variant of PTBN, folded networks and dropout on the residual stream take the plain
    operations, as do traced graphs and modules with hooks.
    """
    config = transformer.config
    return (
        transformer.training
        and not transformed(x.device)  # first: a tracer or compiler sees no more than this
        and x.dtype == torch.float32
        and pick(config.kernel, x.device) == "numba"
        and not config.advanced_norm
        and config.resid_dropout == 0.0
        and not (isinstance(theta, Tensor) and theta.requires_grad)
        and _plain_modules(transformer)
    )


def _plain_modules(transformer: nn.Module) -> bool:
    for module in transformer.modules():
        if isinstance(module, LIF) and not isinstance(module.spike_fn, Surrogate):
            return False
        if isinstance(module, nn.Linear) and type(module.weight) is not nn.Parameter:
            return False  # pruned or reparametrized
    if any(type(norm) not in (PTBN, TdBN, TdLN) for norm in _norms(transformer)):
        return False
    floats = all(p.dtype == torch.float32 for p in transformer.parameters())
    return floats and only_rates(transformer)


def _norms(transformer: Any) -> list[nn.Module]:
    named = transformer.named_modules()
    return [module for name, module in named if name.rsplit(".", 1)[-1] == "norm"]


class FusedPass:
    """One forward of a transformer.

    Args:
        transformer: a SpikingTransformer.
        theta: PTBN's.
        valid: [B, L], or None.
    """

    def __init__(self, transformer: Any, theta: float | Tensor, valid: Tensor | None) -> None:
        self.transformer = transformer
        self.config = transformer.config
        self.theta = theta
        self.valid = valid
        self.statistics_of = valid if self.config.mask_statistics else None
        bf16 = self.config.matmul == "bf16"
        self.spike_dtype = torch.bfloat16 if bf16 else torch.float32

    def run(self, x: Tensor) -> Tensor:
        """Tokens [B, L, D] -> tokens [B, L, D]."""
        blocks = list(self.transformer.blocks)
        x_seq = x.unsqueeze(0).expand(self.config.spike_steps, *x.shape)
        first = blocks[0].attention.input_neuron
        spikes, fault = self._neurons(x_seq, first)
        for i, block in enumerate(blocks):
            following = blocks[i + 1].attention.input_neuron if i + 1 < len(blocks) else None
            x_seq, spikes, fault = self._attention(block, x_seq, spikes, fault)
            x_seq, spikes, fault = self._mlp(block, x_seq, spikes, fault, following)
        norm = norm_inputs([self.transformer.norm], self.theta)
        out = normed_lif(
            x_seq, None, norm, None, self.spike_dtype, valid=self.statistics_of
        ).current
        return out.mean(dim=0)

    def _matmul(self, spikes: Tensor, *linear: nn.Linear) -> tuple[Tensor, Tensor]:
        """Spikes through linear layers side by side, and their bias."""
        weight = join([layer.weight for layer in linear]).to(self.spike_dtype)
        return spikes @ weight.t(), join([layer.bias for layer in linear])

    def _neurons(self, current: Tensor, neuron: Any) -> tuple[Tensor, Tensor]:
        out = normed_lif(current, None, None, neuron.config, self.spike_dtype)
        report(neuron, out.rates[0])
        return out.spikes, out.fault

    def _layers(self, spikes: Tensor, *layers: Any) -> Emitted:
        """SpikingLayers of the same input, side by side."""
        y, bias = self._matmul(spikes, *(layer.current.linear for layer in layers))
        norm = norm_inputs([layer.current.norm for layer in layers], self.theta)
        config = layers[0].neuron.config
        out = normed_lif(y, bias, norm, config, self.spike_dtype, valid=self.statistics_of)
        for layer, rate in zip(layers, out.rates, strict=True):
            report(layer.neuron, rate)
        return out

    def _join_stream(
        self, x_seq: Tensor, spikes: Tensor, layer: Any, fault: Tensor, neuron: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A branch's end: its output joins the residual stream, which the next neurons read."""
        y, bias = self._matmul(spikes, layer.linear)
        norm = norm_inputs([layer.norm], self.theta)
        config = None if neuron is None else neuron.config
        out = normed_lif(
            y, bias, norm, config, self.spike_dtype,
            valid=self.statistics_of, residual=x_seq, fault=fault,
        )  # fmt: skip
        if neuron is not None:
            report(neuron, out.rates[0])
        return out.current, out.spikes, out.fault

    def _attention(
        self, block: Any, x_seq: Tensor, spikes: Tensor, fault: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        branch = block.attention
        qkv = self._layers(spikes, branch.query, branch.key, branch.value)
        mixed, fault_mix = self._mix(branch, qkv.spikes)
        fault = qkv.fault + fault_mix + _seen(fault + qkv.fault, self.valid) + fault
        return self._join_stream(x_seq, mixed, branch.out, fault, block.mlp.input_neuron)

    def _mix(self, branch: Any, qkv: Tensor) -> tuple[Tensor, Tensor]:
        neuron = branch.mix_neuron
        if isinstance(branch.mix, PositionalAttention):
            weight = branch.mix.dropout(branch.mix.weight)
            out = positional_lif(qkv, self.valid, weight, neuron.config)
            report(neuron, out.rates[0])
            return out.spikes, out.fault
        # Counts above 256 are no bfloat16 numbers: the other kinds mix in float32.
        q, k, v = qkv.float().chunk(3, dim=-1)
        return self._neurons(branch.mix(q, k, v, self.valid), neuron)

    def _mlp(
        self, block: Any, x_seq: Tensor, spikes: Tensor, fault: Tensor, following: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        up = self._layers(spikes, block.mlp.up)
        return self._join_stream(x_seq, up.spikes, block.mlp.down, fault + up.fault, following)


def _seen(fault: Tensor, valid: Tensor | None) -> Tensor:
    """Marks [B, L, 1] of keys and values, carried to every token that may attend to them."""
    if valid is not None:
        fault = torch.where(valid[..., None] > 0, fault, 0.0)
    return fault.cumsum(dim=1)
