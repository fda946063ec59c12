"""Norms between a linear layer and its neurons: tdLN, tdBN, PTBN, and their fold into the layer.

Inputs are [T, B, L, N]: spike step, batch, context position, feature. With gain g and bias b:

    tdLN    g (x - mean) / sqrt(var + eps) + b over the features N of each token and spike step
    tdBN    the same over T, B and L of each feature; running statistics in evaluation mode
    PTBN    theta tdLN(x) + (1 - theta) tdBN(x) in training, each with its own g and b;
            tdBN alone in evaluation mode

`theta` falls from 1 to 0 early in training: layer statistics while the batch statistics are still
poor, then batch statistics, which fold into the linear layer and vanish. It is an argument: a norm
that counted its own forwards would fall faster under gradient accumulation or evaluation in
training mode.

Gains start at the neurons' threshold, so that v reaches it where an input is one deviation above
the mean. Running statistics move by 0.1 per training forward, also while theta is 1.

Source: Huang et al. 2025 (DSFormer); Zheng et al. 2021 (tdBN).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from policies.kernels.guard import without_autocast

Normalization = Literal["ptbn", "tdbn", "tdln", "folded"]


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """One norm. The defaults are DSFormer's, as published."""

    kind: Normalization = "ptbn"
    # start value of the gains, > 0; DSFormer the neurons' threshold, 0.5
    gain: float = 0.5
    # batch statistics leave out padded tokens; DSFormer's release False
    masked: bool = True
    # PTBN's layer statistics: 0 over N; T over T and N with affine weights [T, N] (the release's
    # other variant, for Adroit)
    layer_steps: int = 0
    # PTBN's batch branch adds a learned multiple of its input (RepBN; of the same variant)
    shortcut: bool = False


class TdLN(nn.LayerNorm):
    """Layer norm of each token at each spike step: [..., N] -> [..., N].

    Args:
        features: N.
        gain: start value of the gain.
    """

    def __init__(self, features: int, gain: float) -> None:
        super().__init__(features)
        nn.init.constant_(self.weight, gain)

    def forward(
        self, x: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """Normalize x; theta and valid have no effect here."""
        return super().forward(x)


class TdBN(nn.BatchNorm1d):
    """Batch norm over spike steps, batch and context: [T, B, L, N] -> [T, B, L, N].

    Args:
        features: N.
        gain: start value of the gain.
        masked: the statistics leave out tokens that are not valid.

    Attributes:
        sums: None, or what makes a differentiable sum over all processes of this one's sum; see
            policies.distributed.share_statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, gain: float, masked: bool = False) -> None:
        super().__init__(features)
        nn.init.constant_(self.weight, gain)
        self.masked = masked
        self.sums: Callable[[Tensor], Tensor] | None = None

    def forward(
        self, x: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """Normalize x, in training mode by its own statistics; theta has no effect here.

        Args:
            x: [T, B, L, N].
            theta: ignored.
            valid: [B, L], 1 for tokens that exist; None: all do.
        """
        masked = valid is not None and self.masked
        if not self.training or not (masked or self.sums is not None):
            return super().forward(x.flatten(0, -2)).view_as(x)
        if valid is None or not masked:
            valid = x.new_ones(x.shape[1:-1])
        with without_autocast(x.device):  # it would round the sums
            out = self._masked(x.to(torch.promote_types(x.dtype, torch.float32)), valid)
        # A module in half precision gives half precision; under autocast its weights are float32.
        return out.to(torch.promote_types(x.dtype, self.weight.dtype))

    def _masked(self, x: Tensor, valid: Tensor) -> Tensor:
        """Batch statistics over the tokens that exist; without any, the running ones."""
        sums = self._alone if self.sums is None else self.sums
        rows = valid.to(x.dtype).flatten().repeat(x.shape[0])  # [T * B * L]
        n = sums(rows.sum())
        count = n.clamp_min(1.0)
        # Sums over tokens as products with a vector: one pass over x each.
        mean = sums(rows @ x.flatten(0, -2)) / count
        centered = x - mean
        var = sums(rows @ centered.flatten(0, -2).square()) / count
        self.follow(mean.detach(), var.detach() * count / (count - 1.0).clamp_min(1.0), n)
        any_token = n > 0
        centered = torch.where(any_token, centered, x - self.running_mean)
        var = torch.where(any_token, var, self.running_var)
        return torch.addcmul(self.bias, centered, (var + self.eps).rsqrt() * self.weight)

    @staticmethod
    def _alone(x: Tensor) -> Tensor:
        return x

    @torch.no_grad()
    def follow(self, mean: Tensor, var: Tensor, n: Tensor) -> None:
        """Move the running statistics by a batch's: mean, unbiased variance, number of rows."""
        share = self.momentum  # None, as in PyTorch: the mean of all batches
        share = 1.0 / (int(self.num_batches_tracked) + 1) if share is None else share
        momentum = share * (n > 0).to(self.running_mean)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(var.to(self.running_var), momentum)
        self.num_batches_tracked.add_(1)


class PTBN(nn.Module):
    """Progressive threshold-dependent batch norm: from layer to batch statistics.

    Args:
        features: N.
        config: gain of both branches, and the variant.
    """

    def __init__(self, features: int, config: NormConfig) -> None:
        super().__init__()
        self.layer_steps = config.layer_steps
        self.ln = nn.LayerNorm((self.layer_steps, features) if self.layer_steps else features)
        nn.init.constant_(self.ln.weight, config.gain)
        self.bn = TdBN(features, config.gain, config.masked)
        self.shortcut = nn.Parameter(torch.ones(())) if config.shortcut else None

    def forward(
        self, x: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """Normalize x.

        Args:
            x: [T, B, L, N].
            theta: weight of the layer branch in training mode, [0, 1].
            valid: [B, L], 1 for tokens that exist; None: all do.
        """
        batch: Tensor = self.bn(x, theta, valid)
        if self.shortcut is not None:
            batch = batch + self.shortcut * x
        if not self.training:
            return batch
        if isinstance(theta, float) and theta == 0.0:
            return batch
        layer: Tensor = self._layer(x)
        return theta * layer + (1.0 - theta) * batch

    def _layer(self, x: Tensor) -> Tensor:
        # [T, B, L, N] -> [B, L, T, N]: the axes that the layer statistics run over come last
        x = x.movedim(0, 2) if self.layer_steps else x
        out: Tensor = self.ln(x)
        return out.movedim(2, 0) if self.layer_steps else out


class Folded(nn.Module):
    """What is left of a norm after its fold: nothing."""

    def forward(
        self, x: Tensor, theta: float | Tensor = 0.0, valid: Tensor | None = None
    ) -> Tensor:
        """Return x."""
        return x


def make_norm(features: int, config: NormConfig) -> nn.Module:
    """The norm that a config describes, over N features."""
    if config.kind == "ptbn":
        return PTBN(features, config)
    if config.kind == "tdbn":
        return TdBN(features, config.gain, config.masked)
    if config.kind == "tdln":
        return TdLN(features, config.gain)
    return Folded()


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift [N], float64, that a norm is when evaluated: norm(x) = scale * x + shift.

    Raises:
        ValueError: if the norm needs statistics of its input (tdLN), or is folded already.
    """
    batch = norm.bn if isinstance(norm, PTBN) else norm
    if isinstance(batch, Folded):
        raise ValueError("this network is folded already: its norms are in its linear layers")
    if not isinstance(batch, TdBN):
        raise ValueError(
            "normalization='tdln' cannot be folded: it takes statistics from each input, so "
            "multiplications would remain; train with normalization='ptbn' or 'tdbn'"
        )
    scale = batch.weight.double() / (batch.running_var.double() + batch.eps).sqrt()
    shift = batch.bias.double() - batch.running_mean.double() * scale
    if isinstance(norm, PTBN) and norm.shortcut is not None:
        scale = scale + norm.shortcut.double()
    return scale, shift


@torch.no_grad()
def fold_after(linear: nn.Linear, norm: nn.Module) -> None:
    """Make linear(x) what norm(linear(x)) is when evaluated, in place."""
    scale, shift = affine(norm)
    # In float64, rounded once: the fewer roundings, the fewer spikes change.
    linear.bias.copy_(linear.bias.double() * scale + shift)
    linear.weight.copy_(linear.weight.double() * scale[:, None])


@torch.no_grad()
def fold_before(norm: nn.Module, linear: nn.Linear) -> None:
    """Make linear(x) what linear(norm(x)) is when evaluated, in place; it needs a bias."""
    scale, shift = affine(norm)
    weight = linear.weight.double()
    linear.bias.copy_(linear.bias.double() + weight @ shift)
    linear.weight.copy_(weight * scale)
