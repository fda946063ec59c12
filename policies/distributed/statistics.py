"""Statistics of a batch that is spread over ranks: those of the whole batch, on every rank.

Normalizers take in the moments of all ranks' observations. Batch norms share sums in the forward
pass, and gradients flow through these sums to every rank's inputs, so that N ranks train as one
process with the whole batch would. (torch's SyncBatchNorm does the same on CUDA devices only.)
The norms of a population-coded actor differ: each rank normalizes by its own batch, and moving
statistics follow the whole one, equal on every rank.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from policies.batch_norm import CurrentNorm
from policies.distributed.group import gather, sum_over_ranks
from policies.kernels.batch_norm import Moments
from policies.normalization import TdBN
from policies.normalizer import RunningNormalizer


def share_statistics(module: nn.Module) -> None:
    """Let normalizers and batch norms below a module use the statistics of all ranks' batches.

    In place; state_dict keeps its names, and copies of the module share too. Each forward in
    training mode then waits for the other ranks, evaluation does not. Group norms and
    layer norms need nothing, SyncBatchNorm shares by itself. torch's batch norms keep their
    class's name with "Shared" before it.

    Raises:
        ValueError: if a batch norm is of a class whose arithmetic is not known, or an instance norm
            keeps running statistics.
    """
    for name, part in module.named_modules():
        if isinstance(part, RunningNormalizer):
            part.merge = merge_moments
        elif isinstance(part, CurrentNorm):
            part.merge = merge_currents
        elif isinstance(part, TdBN):
            part.sums = sum_over_ranks
        elif isinstance(part, _BatchNorm) and not isinstance(
            part, SharedBatchNorm | nn.SyncBatchNorm
        ):
            known = _SHARED.get(type(part))
            if known is None:
                raise ValueError(
                    f"{name} is a {type(part).__name__}, whose statistics cannot be shared between "
                    f"ranks; use one of {[kind.__name__ for kind in _SHARED]} or a LayerNorm"
                )
            part.__class__ = known
        elif isinstance(part, _InstanceNorm) and part.track_running_stats:
            raise ValueError(
                f"{name} is a {type(part).__name__} with running statistics, which would go apart "
                "on different ranks; set track_running_stats=False"
            )


def shares_gradients(module: nn.Module) -> bool:
    """Whether a rank's loss moves other ranks' gradients: a batch norm below is shared."""
    parts = list(module.modules())
    return any(
        isinstance(part, SharedBatchNorm) or (isinstance(part, TdBN) and part.sums is not None)
        for part in parts
    )


def merge_moments(
    mean: Tensor, var: Tensor, count: Tensor, outside: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moments of all ranks' samples together, from each rank's own.

    Args:
        mean: mean of this rank's samples, [D].
        var: their variance, divided by their number, [D].
        count: their number, a scalar; may be 0.
        outside: 1 for features that left their bounds, [D].

    Source: Chan, Golub, LeVeque 1983 (merging moments).
    """
    features = mean.shape[0]
    parts = gather(torch.cat([mean, var, outside, count.view(1)]))
    means, variances, outsides, counts = parts.split([features, features, features, 1], dim=1)
    total = counts.sum()
    share = counts / total.clamp_min(1.0)  # [ranks, 1]
    # A rank without samples has no moments; 0 * NaN would spoil the others'.
    means = torch.where(counts > 0, means, 0.0)
    variances = torch.where(counts > 0, variances, 0.0)
    merged = (share * means).sum(dim=0)
    spread = (share * (variances + (means - merged).square())).sum(dim=0)
    return merged, spread, total, outsides.amax(dim=0)


def merge_currents(found: Moments, batch: int) -> tuple[Moments, int]:
    """Statistics of all ranks' currents together, and their number of samples.

    Args:
        found: this rank's, [N] each.
        batch: its samples; may be 0.
    """
    mean, var, mean_error, var_error = found
    count = mean.new_full((1,), batch)
    parts = gather(torch.stack([*found, count.expand_as(mean)]))  # [ranks, 5, N]
    means, variances, mean_errors, var_errors, counts = parts.unbind(1)
    total = counts.sum(dim=0)
    share = counts / total.clamp_min(1.0)
    mean = (share * means).sum(dim=0)
    var = (share * (variances + (means - mean).square())).sum(dim=0)
    mean_error = (share.square() * mean_errors).sum(dim=0)
    var_error = (share.square() * var_errors).sum(dim=0)
    return Moments(mean, var, mean_error, var_error), int(total[0])


class SharedBatchNorm(_BatchNorm):
    """Batch norm over all ranks' batches, [B, C, ...] -> the same; put before a torch class."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in training mode by the statistics of all ranks' batches."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]  # torch's
        # Without running statistics evaluation normalizes by its own batch: it waits for nobody.
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        rows = x.new_full((1,), x.numel() / max(x.shape[1], 1))
        sums = sum_over_ranks(torch.cat([x.sum(dim=axes), rows]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = x - mean.view(shape)
        var = sum_over_ranks(centered.square().sum(dim=axes)) / count
        self._follow(mean.detach(), var.detach(), count)
        out = centered * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        unbiased = var * (count / (count - 1.0).clamp_min(1.0))
        self.running_var.lerp_(unbiased.to(self.running_var), share)


class SharedBatchNorm1d(SharedBatchNorm, nn.BatchNorm1d):
    """See SharedBatchNorm."""


class SharedBatchNorm2d(SharedBatchNorm, nn.BatchNorm2d):
    """See SharedBatchNorm."""


class SharedBatchNorm3d(SharedBatchNorm, nn.BatchNorm3d):
    """See SharedBatchNorm."""


_SHARED: dict[type[nn.Module], type[SharedBatchNorm]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
    nn.BatchNorm3d: SharedBatchNorm3d,
}
