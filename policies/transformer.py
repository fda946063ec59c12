"""A spiking transformer over a context of tokens: composition of attention, norms and neurons.

    x [B, L, D] -> repeated, [T, B, L, D]
        -> blocks: x + attention(LIF(x)), x + MLP(LIF(x)) -> norm -> mean over T -> [B, L, D]

    attention: q, k, v = LIF(norm(linear(.))) -> mixing of tokens -> LIF -> linear -> norm
    MLP:       linear -> norm -> LIF -> linear -> norm

The residual stream is real; every branch starts with a neuron, so each linear layer sees spikes.
Time is folded: all spike steps of a layer are one matmul.

Source: Huang et al. 2025 (DSFormer).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn

from policies.attention import Attention, carry_faults, make_attention
from policies.config import LIFConfig, check_choice, check_count, check_range
from policies.fused_transformer import FusedPass, runs_fused
from policies.kernels.choice import Kernel, Matmul
from policies.kernels.guard import autocast_on
from policies.neurons import LIF
from policies.normalization import Folded, Normalization, NormConfig, fold_after, make_norm

# DSFormer's neuron: a quarter of v stays, and the reset carries no gradient.
DSFORMER_LIF = LIFConfig(v_decay=0.25, detach_reset=True)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A spiking transformer. The defaults are DSFormer's, as published."""

    # features of a token, >= 1; DSFormer 256
    width: int = 256
    # longest sequence in tokens, >= 1; DSFormer 20
    context: int = 20
    # blocks, >= 1; DSFormer 3
    num_layers: int = 3
    # attention heads, a divisor of width; without effect on PSSA; DSFormer 1
    num_heads: int = 1
    # spike steps per token (T), >= 1; DSFormer 4
    spike_steps: int = 4
    # mixing of tokens; see policies.attention
    attention: Attention = "pssa"
    # tokens that a query of PSSA sees, itself included, >= 1; DSFormer 8
    window: int = 8
    # norms; see policies.normalization; the paper "ptbn", the release's default "tdln"
    normalization: Normalization = "ptbn"
    # batch statistics leave out padded tokens; the release False
    mask_statistics: bool = True
    # PTBN of the release's other variant: layer statistics over T and N, RepBN; DSFormer False
    advanced_norm: bool = False
    # factor on the gain that norms at the end of a branch start with; DSFormer 1 (1/sqrt(2) meant)
    branch_gain: float = 1.0
    # hidden features of the MLP over width, >= 1; DSFormer 4
    mlp_ratio: int = 4
    # probability of dropping in training, [0, 1]: attention weights; DSFormer 0
    attn_dropout: float = 0.0
    # the same for what a branch adds; DSFormer 0
    resid_dropout: float = 0.0
    neuron: LIFConfig = field(default_factory=lambda: DSFORMER_LIF)
    # surrogate_width of the neurons behind the mixing of tokens; the release 1, see below
    mix_surrogate_width: float = 2.0
    # arithmetic of the matmuls of spikes, "float32" or "bf16": weights and sums rounded to bfloat16
    matmul: Matmul = "float32"
    # what computes the rest; see policies.kernels.choice
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("width", "context", "num_layers", "num_heads", "spike_steps", "mlp_ratio"):
            check_count(name, getattr(self, name))
        check_count("window_size", self.window)
        check_choice("attention", self.attention, get_args(Attention))
        check_choice("normalization", self.normalization, get_args(Normalization))
        check_choice("kernel", self.kernel, get_args(Kernel))
        if self.matmul == "exact":
            raise ValueError(
                "matmul='exact' is not available for transformers: their neurons are fed by norms "
                "and sums of real numbers; use matmul='float32' or 'bf16'"
            )
        check_choice("matmul", self.matmul, ("float32", "bf16"))
        check_range("branch_gain", self.branch_gain, 0.0, open_low=True)
        check_range("mix_surrogate_width", self.mix_surrogate_width, 0.0, open_low=True)
        check_range("attn_dropout", self.attn_dropout, 0.0, 1.0)
        check_range("resid_dropout", self.resid_dropout, 0.0, 1.0)
        if self.width % self.num_heads:
            raise ValueError(
                f"num_heads must divide the width, got {self.num_heads} heads for {self.width} "
                "features; change num_heads or the encoder's output size"
            )

    def neurons(self, config: LIFConfig | None = None) -> LIF:
        """Neurons of this kernel, `neuron` unless others are asked for."""
        return LIF(self.neuron if config is None else config, fused=self.kernel != "torch")

    def norm(self, gain: float = 1.0) -> NormConfig:
        """Settings of a norm whose gain starts at that multiple of the threshold."""
        return NormConfig(
            kind=self.normalization,
            gain=gain * self.neuron.v_threshold,
            masked=self.mask_statistics,
            layer_steps=self.spike_steps if self.advanced_norm else 0,
            shortcut=self.advanced_norm,
        )


class SpikingLayer(nn.Module):
    """Linear layer, norm and neurons: spikes [T, B, L, in] -> spikes [T, B, L, out].

    Args:
        n_in: input features.
        n_out: output features.
        config: see TransformerConfig.
    """

    def __init__(self, n_in: int, n_out: int, config: TransformerConfig) -> None:
        super().__init__()
        self.current = NormedLinear(n_in, n_out, config)
        self.neuron = config.neurons()

    def forward(
        self, spikes_seq: Tensor, theta: float | Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Spikes, and a mark [B, L, 1] as `fire` gives it; theta and valid are the norm's."""
        current_seq: Tensor = self.current(spikes_seq, theta, valid)
        return fire(self.neuron, current_seq)


class SpikeLinear(nn.Linear):
    """A linear layer of spikes: [..., in] -> [..., out].

    Args:
        n_in: input features.
        n_out: output features.
        matmul: "bf16" rounds weights and sums to bfloat16; the bias is added in float32.
    """

    def __init__(self, n_in: int, n_out: int, matmul: Matmul = "float32") -> None:
        super().__init__(n_in, n_out)
        self.matmul = matmul

    def forward(self, spikes: Tensor) -> Tensor:
        """Currents of spikes, in their dtype."""
        if self.matmul != "bf16":
            return super().forward(spikes)
        sums = spikes.to(torch.bfloat16) @ self.weight.to(torch.bfloat16).t()
        return sums.to(spikes.dtype) + self.bias


class NormedLinear(nn.Module):
    """Linear layer and norm: spikes [T, B, L, in] -> currents [T, B, L, out].

    Args:
        n_in: input features.
        n_out: output features.
        config: see TransformerConfig.
        gain: factor on the gain that the norm starts with.
    """

    def __init__(self, n_in: int, n_out: int, config: TransformerConfig, gain: float = 1.0) -> None:
        super().__init__()
        self.linear = SpikeLinear(n_in, n_out, config.matmul)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.norm = make_norm(n_out, config.norm(gain))

    def forward(self, spikes_seq: Tensor, theta: float | Tensor, valid: Tensor | None) -> Tensor:
        """Currents of a spike train; theta and valid are the norm's."""
        out: Tensor = self.norm(self.linear(spikes_seq), theta, valid)
        return out

    def fold(self) -> None:
        """Put the norm into the linear layer; see `normalization.fold_after`."""
        fold_after(self.linear, self.norm)
        self.norm = Folded()


def fire(neuron: nn.Module, current_seq: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes [T, B, L, N], and 0 for each token, NaN where a membrane broke: [B, L, 1].

    A NaN membrane never spikes, so a broken weight or token would go unseen; see `fault_mark`.
    """
    spikes, state = neuron(current_seq)
    return spikes, (0.0 * state.v.detach().sum(dim=-1, keepdim=True)).to(spikes.dtype)


class SpikingSelfAttention(nn.Module):
    """The attention branch of a block: [T, B, L, D] -> [T, B, L, D].

    Args:
        config: see TransformerConfig.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.input_neuron = config.neurons()
        self.query = SpikingLayer(width, width, config)
        self.key = SpikingLayer(width, width, config)
        self.value = SpikingLayer(width, width, config)
        self.mix = make_attention(
            config.attention, config.num_heads, config.context, config.window, config.attn_dropout
        )
        # Mixing adds integers, at first in PSSA too. Their membranes lie at 0, 1, 2, ..., where a
        # rectangle of width 1 around 0.5 is 0: nothing in front of it would ever learn.
        mix = dataclasses.replace(config.neuron, surrogate_width=config.mix_surrogate_width)
        self.mix_neuron = config.neurons(mix)
        self.out = NormedLinear(width, width, config, config.branch_gain)

    def forward(
        self, x_seq: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """What the branch adds to the residual stream."""
        spikes, fault = fire(self.input_neuron, x_seq)
        q, fault_q = self.query(spikes, theta, valid)
        k, fault_k = self.key(spikes, theta, valid)
        v, fault_v = self.value(spikes, theta, valid)
        spikes, fault_mix = fire(self.mix_neuron, self.mix(q, k, v, valid))
        out: Tensor = self.out(spikes, theta, valid)
        seen = carry_faults(fault + fault_k + fault_v, valid)
        faults: Tensor = fault + fault_q + seen + fault_mix
        return out + faults


class SpikingFeedForward(nn.Module):
    """The MLP branch of a block: [T, B, L, D] -> [T, B, L, D].

    Args:
        config: see TransformerConfig.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.input_neuron = config.neurons()
        self.up = SpikingLayer(config.width, hidden, config)
        self.down = NormedLinear(hidden, config.width, config, config.branch_gain)

    def forward(
        self, x_seq: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """What the branch adds to the residual stream."""
        spikes, fault = fire(self.input_neuron, x_seq)
        spikes, fault_up = self.up(spikes, theta, valid)
        out: Tensor = self.down(spikes, theta, valid)
        faults: Tensor = fault + fault_up
        return out + faults


class SpikingBlock(nn.Module):
    """Attention, then MLP, each added to the residual stream: [T, B, L, D] -> [T, B, L, D].

    Args:
        config: see TransformerConfig.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = SpikingSelfAttention(config)
        self.mlp = SpikingFeedForward(config)
        self.dropout = nn.Dropout(config.resid_dropout)

    def forward(
        self, x_seq: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """The residual stream after this block."""
        x_seq = x_seq + self.dropout(self.attention(x_seq, theta, valid))
        added: Tensor = self.dropout(self.mlp(x_seq, theta, valid))
        return x_seq + added


class SpikingTransformer(nn.Module):
    """Spiking transformer: tokens [B, L, D] -> tokens [B, L, D].

    In training on a CPU with numba, compiled layers run instead of the modules' own operations
    (`policies.fused_transformer`, which says when not); `policies.incremental` evaluates one token
    at a time.

    Causal, and blind to padding, in evaluation mode. In training mode batch statistics run over
    the whole batch, padded tokens included unless `mask_statistics`.

    Args:
        config: everything.
    """

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = TransformerConfig() if config is None else config
        self.blocks = nn.ModuleList(SpikingBlock(config) for _ in range(config.num_layers))
        self.norm = make_norm(config.width, config.norm())

    def forward(
        self, x: Tensor, valid: Tensor | None = None, theta: float | Tensor = 0.0
    ) -> Tensor:
        """Propagate a context of tokens.

        Args:
            x: embedded tokens, [B, L, D], L up to the context length.
            valid: [B, L], 1 for tokens that exist, 0 for padding; None: all exist.
            theta: PTBN's weight of its layer branch in training mode, [0, 1].

        Returns:
            [B, L, D]; what stands at padded positions means nothing. A token with a NaN or infinite
            value comes out as NaN, as do those after it, and any token where a weight is.

        Raises:
            ValueError: if x or valid has another shape.
        """
        self._check(x, valid)
        if autocast_on(x.device) and x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()  # the residual stream, which sums what all blocks add
        if runs_fused(self, x, theta):
            return FusedPass(self, theta, valid).run(x)
        # [B, L, D] -> [T, B, L, D]
        x_seq = x.unsqueeze(0).expand(self.config.spike_steps, *x.shape)
        for block in self.blocks:
            x_seq = block(x_seq, theta, valid)
        out_seq: Tensor = self.norm(x_seq, theta, valid)
        return out_seq.mean(dim=0)

    def _check(self, x: Tensor, valid: Tensor | None) -> None:
        config = self.config
        if x.dim() != 3 or x.shape[-1] != config.width:
            raise ValueError(
                f"x must be [B, L, {config.width}] (batch first), got {tuple(x.shape)}"
            )
        if x.shape[1] > config.context:
            raise ValueError(
                f"x has {x.shape[1]} tokens, but the transformer was built for a context of "
                f"{config.context}; shorten the sequence or build it with a larger context"
            )
        if valid is not None and valid.shape != x.shape[:2]:
            raise ValueError(
                f"valid must be [B, L] = {tuple(x.shape[:2])}, got {tuple(valid.shape)}"
            )

    def fold_blocks(self) -> None:
        """Put every norm of the blocks into its linear layer, in place.

        The norm after the blocks stays: it belongs to the layer that reads the result.
        """
        for module in self.blocks.modules():
            if isinstance(module, NormedLinear):
                module.fold()
