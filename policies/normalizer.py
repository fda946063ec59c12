"""A running z-score that puts raw observations inside the encoder's receptive fields."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from policies.checks import check_features

# PopSAN's reference data: (obs - mean) / sqrt(var + EPS).
EPS = 1e-8
# Beyond this many samples old ones fade: statistics keep following a policy that changes.
MAX_COUNT = 1e7
# Share of its bounds by which a feature may be outside them: rounding, and careless environments.
BOUND_TOLERANCE = 0.05


class RunningNormalizer(nn.Module):
    """z-score with running statistics, clipped: obs [B, obs_dim] -> [B, obs_dim] in [-clip, clip].

    `forward` only reads the statistics: a sample's result does not depend on its batch; NaN and
    infinity come out as NaN. `update` merges a batch into them; whoever trains the network calls
    it. Until the first update the statistics are mean 0, variance 1.

    The buffers are named `running_*`: Stable-Baselines3 copies buffers of that name from an actor
    to its target network. All are float32, the count too: that copy is a float operation.
    `running_mean_error` is what rounding has kept out of the mean (Kahan summation): without it a
    mean far from 0 would stop following once each batch's share is small.

    Args:
        obs_dim: number of features.
        clip: bound of the result, > 0; the range of the encoder's receptive fields.
        deferred: take updates in at the next switch to evaluation mode.

    Source: Chan, Golub, LeVeque 1983 (merging moments); Tang et al. 2020 (PopSAN: clip at 3).
    """

    running_mean: Tensor
    running_mean_error: Tensor
    running_var: Tensor
    running_count: Tensor
    running_fixed: Tensor

    def __init__(self, obs_dim: int, clip: float = 3.0, deferred: bool = False) -> None:
        super().__init__()
        self.clip = clip
        self.deferred = deferred
        # True also at the start: a loaded state may bring pending statistics.
        self._may_be_pending = deferred
        for kind in ("running", "pending") if deferred else ("running",):
            self.register_buffer(f"{kind}_mean", torch.zeros(obs_dim))
            self.register_buffer(f"{kind}_mean_error", torch.zeros(obs_dim))
            self.register_buffer(f"{kind}_var", torch.ones(obs_dim))
            self.register_buffer(f"{kind}_count", torch.zeros(()))
        # 1 where bounds stand in place of statistics.
        self.register_buffer("running_fixed", torch.zeros(obs_dim))
        if deferred:
            self.register_buffer("pending_outside", torch.zeros(obs_dim))
        # True: `update` does nothing
        self.frozen = False
        # (mean, variance, count, outside) of a batch -> those of all processes' batches together;
        # see policies.distributed.share_statistics
        self.merge: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]] | None = None

    @torch.no_grad()
    def fix_bounds(self, low: Tensor, high: Tensor) -> None:
        """Map features with finite bounds onto [-clip, clip]; the others keep learning.

        A feature that an update finds outside its bounds learns from then on: something between
        environment and network, such as VecNormalize, has rescaled it.

        Args:
            low: lower bounds, [obs_dim]; infinite where there is none.
            high: upper bounds, likewise.

        Raises:
            ValueError: if the bounds have another shape.
        """
        for name, bound in (("low", low), ("high", high)):
            if bound.shape != self.running_mean.shape:
                raise ValueError(
                    f"{name} must be [{self.running_mean.shape[0]}], one bound a feature, "
                    f"got {tuple(bound.shape)}"
                )
        half = (high - low).to(self.running_mean) / 2
        fixed = torch.isfinite(half) & (half > 0)
        center = low.to(self.running_mean) + half
        self.running_fixed.copy_(fixed)
        self.running_mean.copy_(torch.where(fixed, center, self.running_mean))
        self.running_var.copy_(torch.where(fixed, (half / self.clip).square(), self.running_var))

    def _outside(self, obs: Tensor) -> Tensor:
        """1 for features with bounds of which obs [B, obs_dim] holds finite values outside them."""
        reach = self.clip * torch.sqrt(self.running_var) * (1.0 + BOUND_TOLERANCE)
        outside = ((obs - self.running_mean).abs() > reach) & torch.isfinite(obs)
        return outside.any(dim=0) * self.running_fixed

    def _give_up_bounds(self, outside: Tensor, mean: Tensor, var: Tensor) -> None:
        """Features with a 1 in `outside` learn from now on, and start with these moments."""
        given_up = (outside > 0) & torch.isfinite(mean) & torch.isfinite(var)
        self.running_mean.copy_(torch.where(given_up, mean, self.running_mean))
        self.running_var.copy_(torch.where(given_up, var, self.running_var))
        self.running_fixed.masked_fill_(given_up, 0.0)

    def forward(self, obs: Tensor) -> Tensor:
        """Normalize and clip.

        Raises:
            ValueError: if obs has another shape than [B, obs_dim].
        """
        check_features("observations", obs, self.running_mean.shape[0])
        z = (obs - self.running_mean) / torch.sqrt(self.running_var + EPS)
        # The clip would turn infinity into an ordinary number; 0 * infinity is NaN.
        return z.clamp(-self.clip, self.clip) + 0.0 * (obs + self.running_mean + self.running_var)

    @torch.no_grad()
    def update(self, obs: Tensor) -> None:
        """Merge the mean and variance of obs [B, obs_dim] into the running statistics.

        A batch with NaN, infinity or values whose squares overflow changes nothing, nor does an
        empty one.

        Raises:
            ValueError: if obs has another shape.
        """
        check_features("observations", obs, self.running_mean.shape[0])
        if (obs.shape[0] == 0 and self.merge is None) or self.frozen:
            return
        obs = obs.to(self.running_mean.dtype)
        if obs.shape[0] == 0:  # other processes have some; torch warns of the moments of nothing
            batch_var = batch_mean = torch.zeros_like(self.running_mean)
        else:
            batch_var, batch_mean = torch.var_mean(obs, dim=0, correction=0)
        batch_count = torch.full_like(self.running_count, obs.shape[0])
        outside = self._outside(obs)
        if self.merge is not None:
            batch_mean, batch_var, batch_count, outside = self.merge(
                batch_mean, batch_var, batch_count, outside
            )
        if self.deferred:
            pending = self.get_buffer("pending_outside")
            pending.copy_(torch.maximum(pending, outside))
        else:
            self._give_up_bounds(outside, batch_mean, batch_var)
        self._merge("pending" if self.deferred else "running", batch_mean, batch_var, batch_count)
        self._may_be_pending = self.deferred

    @torch.no_grad()
    def train(self, mode: bool = True) -> Self:
        """Switch the mode; a deferred normalizer takes its updates in when training ends."""
        super().train(mode)
        if not mode and self._may_be_pending:
            mean, var, count = (self.get_buffer(f"pending_{n}") for n in ("mean", "var", "count"))
            outside = self.get_buffer("pending_outside")
            self._give_up_bounds(outside, mean, var)
            self._merge("running", mean, var, count)
            count.zero_()
            outside.zero_()
            self._may_be_pending = False
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._may_be_pending = self.deferred

    def _merge(self, kind: str, batch_mean: Tensor, batch_var: Tensor, batch_count: Tensor) -> None:
        """Merge moments of `batch_count` samples; nothing changes if the result is not finite."""
        old_mean, old_error, old_var, old_count = (
            self.get_buffer(f"{kind}_{name}") for name in ("mean", "mean_error", "var", "count")
        )
        delta = batch_mean - old_mean
        share = batch_count / (old_count + batch_count)
        var = old_var * (1.0 - share) + batch_var * share
        var = var + delta.square() * (share * (1.0 - share))
        step = delta * share + old_error
        mean = old_mean + step
        count = (old_count + batch_count).clamp(max=MAX_COUNT)
        # No branch on the data: it would wait for the device, and stop a compiled graph.
        sound = torch.isfinite(var).all() & torch.isfinite(mean).all()
        follow = sound & (self.running_fixed == 0) if kind == "running" else sound
        for buffer, value, change in (
            (old_error, step - (mean - old_mean), follow),
            (old_mean, mean, follow),
            (old_var, var, follow),
            (old_count, count, sound),
        ):
            # In place: SB3 keeps references to these buffers.
            buffer.copy_(torch.where(change, value, buffer))

    def extra_repr(self) -> str:
        """Show the sizes in print(module)."""
        return f"obs_dim={self.running_mean.shape[0]}, clip={self.clip}"
