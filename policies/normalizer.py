"""A running z-score that puts raw observations inside the encoder's receptive fields."""

import torch
from torch import Tensor, nn

from policies.checks import check_features, check_finite

# PopSAN's reference data: (obs - mean) / sqrt(var + EPS).
EPS = 1e-8
# Beyond this many samples old ones fade, so that float32 still resolves each update's share.
MAX_COUNT = 1e7


class RunningNormalizer(nn.Module):
    """z-score with running statistics, clipped: obs [B, obs_dim] -> [B, obs_dim] in [-clip, clip].

    `forward` only reads the statistics: a sample's result does not depend on its batch. `update`
    merges a batch into them; whoever trains the network calls it. Until the first update the
    statistics are mean 0, variance 1.

    The buffers are named `running_*`: Stable-Baselines3 copies buffers of that name from an actor
    to its target network. All are float32, the count too: that copy is a float operation.

    Args:
        obs_dim: number of features.
        clip: bound of the result, > 0; the range of the encoder's receptive fields.

    Source: Chan, Golub, LeVeque 1983 (merging moments); Tang et al. 2020 (PopSAN: clip at 3).
    """

    running_mean: Tensor
    running_var: Tensor
    running_count: Tensor

    def __init__(self, obs_dim: int, clip: float = 3.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("running_mean", torch.zeros(obs_dim))
        self.register_buffer("running_var", torch.ones(obs_dim))
        self.register_buffer("running_count", torch.zeros(()))

    def forward(self, obs: Tensor) -> Tensor:
        """Normalize and clip.

        Raises:
            ValueError: if obs has another shape than [B, obs_dim], or a value is NaN or infinite.
        """
        check_features("observations", obs, self.running_mean.shape[0])
        # Before the clip, which would turn infinity into an ordinary number.
        check_finite("observations", obs)
        z = (obs - self.running_mean) / torch.sqrt(self.running_var + EPS)
        return z.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, obs: Tensor) -> None:
        """Merge the mean and variance of obs [B, obs_dim] into the running statistics.

        Raises:
            ValueError: if obs has another shape, a value is NaN or infinite, or so large that its
                square is; the statistics are then as before.
        """
        check_features("observations", obs, self.running_mean.shape[0])
        check_finite("observations", obs)
        obs = obs.to(self.running_mean.dtype)
        batch_var, batch_mean = torch.var_mean(obs, dim=0, correction=0)
        delta = batch_mean - self.running_mean
        share = obs.shape[0] / (self.running_count + obs.shape[0])
        var = self.running_var * (1.0 - share) + batch_var * share
        var = var + delta.square() * (share * (1.0 - share))
        check_finite("the variance of observations", var.unsqueeze(0))
        # In place: SB3 keeps references to these buffers.
        self.running_mean.add_(delta * share)
        self.running_var.copy_(var)
        self.running_count.add_(obs.shape[0]).clamp_(max=MAX_COUNT)

    def extra_repr(self) -> str:
        """Show the sizes in print(module)."""
        return f"obs_dim={self.running_mean.shape[0]}, clip={self.clip}"
