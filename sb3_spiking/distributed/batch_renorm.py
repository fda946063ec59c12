"""CrossQ's batch renormalization over all ranks' batches."""

import torch
from sb3_contrib.common.torch_layers import BatchRenorm, BatchRenorm1d
from torch import Tensor, nn

from policies.distributed import sum_over_ranks


class SharedBatchRenorm1d(BatchRenorm1d):
    """Batch renormalization whose statistics are those of all ranks' batches: [B, C] -> [B, C].

    Source: Ioffe 2017; buffers, constants and warm-up as in sb3_contrib's BatchRenorm.
    """

    ra_mean: Tensor
    ra_var: Tensor
    steps: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalize; in training mode by statistics of all ranks' batches."""
        if not self.training:
            evaluated: Tensor = super().forward(x)
            return evaluated
        rows = x.new_full((1,), x.shape[0])
        sums = sum_over_ranks(torch.cat([x.sum(dim=0), rows]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = x - mean
        var = sum_over_ranks(centered.square().sum(dim=0)) / (count - 1.0).clamp_min(1.0)
        shift, variance = mean, var
        if self.steps > self.warmup_steps:
            shift, variance = self._renormalized(mean, var)
        with torch.no_grad():
            self.ra_mean.lerp_(mean, self.momentum)
            self.ra_var.lerp_(var, self.momentum)
            self.steps.add_(1)
        out = (x - shift) / (variance + self.eps).sqrt()
        return torch.addcmul(self.bias, out, self.scale) if self.affine else out

    def _renormalized(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and variance that make the batch look as the running statistics see it."""
        with torch.no_grad():
            running = (self.ra_var + self.eps).sqrt()
            scale = ((var + self.eps).sqrt() / running).clamp(1.0 / self.rmax, self.rmax)
            offset = ((mean - self.ra_mean) / running).clamp(-self.dmax, self.dmax)
            shift = offset / scale
        return mean - shift * var.sqrt(), var / scale.square()


def share_batch_renorm(module: nn.Module) -> None:
    """Let batch renormalization below a module use all ranks' batches; in place.

    Raises:
        TypeError: if one is of a class whose arithmetic is not known.
    """
    for name, part in module.named_modules():
        if type(part) is BatchRenorm1d:
            part.__class__ = SharedBatchRenorm1d
        elif isinstance(part, BatchRenorm) and not isinstance(part, SharedBatchRenorm1d):
            raise TypeError(
                f"{name} is a {type(part).__name__}, whose statistics cannot be shared between "
                "ranks; use sb3_contrib's BatchRenorm1d"
            )
