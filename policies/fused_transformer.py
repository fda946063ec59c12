"""The spiking transformer through compiled layers: training on a CPU.

Query, key and value are one matmul; what follows a matmul, up to the spikes that enter the next
one, is one pass over memory. Parameters stay in the modules of `policies.transformer` under their
own names. All modules of one transformer run so, or none.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from policies.attention import PositionalAttention, carry_faults
from policies.fused_attention import positional_lif
from policies.fused_guard import trains_as_built
from policies.fused_layers import Emitted, join, norm_inputs, normed_lif
from policies.kernels.choice import pick
from policies.kernels.guard import autocasts, transformed, without_autocast
from policies.rates import report


def runs_fused(transformer: Any, x: Tensor, theta: float | Tensor) -> bool:
    """Whether the compiled layers can run: numba, float32, training, and nothing that looks inside.

    Under autocast to bfloat16 they run as with matmul="bf16".

    The other variant of PTBN, folded networks and whatever `fused_guard` finds changed take the
    plain operations, as do traced graphs, modules with hooks, empty batches and a single number per
    feature, which plain batch norm refuses.

    Where batch norms share their statistics with other processes all run so, or none: the two ways
    exchange other messages.
    """
    ours = _can_run(transformer, x, theta)
    if not transformer.training or transformer.config.kernel not in ("auto", "numba"):
        return ours
    norm = transformer.norm
    sums = getattr(getattr(norm, "bn", norm), "sums", None)
    if sums is None or x.device.type != "cpu":
        return ours
    willing, all_of_them = sums(torch.tensor([float(ours), 1.0], device=x.device)).tolist()
    if ours and willing < all_of_them:
        warnings.warn(
            "a transformer's compiled layers could run in this process but not in another one, so "
            "all run plain operations, slower; look there for a missing numba or for hooks",
            stacklevel=3,
        )
    return bool(willing == all_of_them)


def _can_run(transformer: Any, x: Tensor, theta: float | Tensor) -> bool:
    config = transformer.config
    return (
        transformer.training
        and not transformed(x.device)  # first: a tracer or compiler sees no more than this
        and x.dtype == torch.float32
        and pick(config.kernel, x.device) == "numba"
        and config.spike_steps * x.shape[0] * x.shape[1] > 1
        and not (isinstance(theta, Tensor) and theta.requires_grad)
        and trains_as_built(transformer)
    )


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
        bf16 = self.config.matmul == "bf16" or autocasts(next(transformer.parameters()).device)
        self.spike_dtype = torch.bfloat16 if bf16 else torch.float32

    def run(self, x: Tensor) -> Tensor:
        """Tokens [B, L, D] -> tokens [B, L, D], float32."""
        with without_autocast(x.device):
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
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
        self, x_seq: Tensor, spikes: Tensor, layer: Any, fault: Tensor, dropout: Any, neuron: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A branch's end: its output joins the residual stream, which the next neurons read."""
        y, bias = self._matmul(spikes, layer.linear)
        norm = norm_inputs([layer.norm], self.theta)
        config = None if neuron is None else neuron.config
        out = normed_lif(
            y, bias, norm, config, self.spike_dtype,
            valid=self.statistics_of, residual=x_seq, fault=fault, mask=_mask(dropout, x_seq),
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
        fault = qkv.fault + fault_mix + carry_faults(fault + qkv.fault, self.valid) + fault
        following = block.mlp.input_neuron
        return self._join_stream(x_seq, mixed, branch.out, fault, block.dropout, following)

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
        fault = fault + up.fault
        return self._join_stream(x_seq, up.spikes, block.mlp.down, fault, block.dropout, following)


def _mask(dropout: nn.Dropout, like: Tensor) -> Tensor | None:
    """Factors of a branch, or None where nothing is dropped; drawn as the module draws them."""
    if not dropout.training or dropout.p == 0.0:
        return None
    out: Tensor = dropout(torch.ones(like.shape, device=like.device))
    return out
