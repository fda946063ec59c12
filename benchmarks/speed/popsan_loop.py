"""PopSAN's actor as its release computes it: a Python loop over spike steps and layers.

Written from the published equations; every step has a matmul of its own. Weights can be shared
with a `PopulationActor`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from policies.actor import PopulationActor

STEPS, POP = 5, 10
ENCODER_THRESHOLD, I_DECAY, V_DECAY, THRESHOLD, HALF_WIDTH = 0.999, 0.5, 0.75, 0.5, 0.5


class _EncoderSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.gt(ENCODER_THRESHOLD).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        return cast(Tensor, grad_outputs[0].clone())


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return v.gt(THRESHOLD).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (v,) = ctx.saved_tensors
        near = (v - THRESHOLD).abs() < HALF_WIDTH
        return cast(Tensor, grad_outputs[0] * near.float())


def rectangle_spike(v: Tensor) -> Tensor:
    """1 where v > 0.5; backward 1 where |v - 0.5| < 0.5."""
    return cast(Tensor, _Spike.apply(v))  # type: ignore[no-untyped-call]  # torch's


class Coded(nn.Module):
    """Population encoder and readout of PopSAN around layers that a subclass runs.

    Args:
        obs_dim: observation dimensions.
        action_dim: action dimensions.
        hidden: neurons of each hidden layer.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.action_dim = action_dim
        means = torch.linspace(-3.0, 3.0, POP).repeat(1, obs_dim, 1)
        self.mean = nn.Parameter(means)
        self.std = nn.Parameter(torch.full_like(means, 0.15**0.5))
        self.sizes = (obs_dim * POP, *hidden, action_dim * POP)
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(self.sizes))
        self.decoder = nn.Conv1d(action_dim, action_dim, POP, groups=action_dim)

    def encode(self, obs: Tensor) -> list[Tensor]:
        """Spikes of the encoder, [B, obs_dim * P] for each spike step."""
        distance = obs.unsqueeze(-1) - self.mean
        activation = torch.exp(-0.5 * distance.pow(2) / self.std.pow(2)).flatten(1)
        v = torch.zeros_like(activation)
        spikes = []
        for _ in range(STEPS):
            v = v + activation
            spike = cast(Tensor, _EncoderSpike.apply(v))  # type: ignore[no-untyped-call]  # torch's
            v = v - ENCODER_THRESHOLD * spike
            spikes.append(spike)
        return spikes

    def zeros(self, batch: int) -> list[Tensor]:
        """State 0 of every layer, [B, N] each."""
        return [self.mean.new_zeros(batch, n) for n in self.sizes[1:]]

    def spikes(self, obs: Tensor) -> Tensor:
        """Spikes of the output neurons, [T, B, action_dim * P]."""
        raise NotImplementedError

    def forward(self, obs: Tensor) -> Tensor:
        """Observations [B, obs_dim] -> actions [B, action_dim]."""
        rate = self.spikes(obs).sum(dim=0) / STEPS
        value = self.decoder(rate.view(-1, self.action_dim, POP))
        return torch.tanh(value.view(-1, self.action_dim))

    @torch.no_grad()
    def share(self, actor: PopulationActor) -> "Coded":
        """Take over an actor's weights."""
        self.mean.copy_(actor.encoder.mean)
        self.std.copy_(actor.encoder.std)
        for own, theirs in zip(self.linears, actor.mlp.linears, strict=True):
            own.load_state_dict(theirs.state_dict())
        self.decoder.weight.copy_(actor.decoder.weight.unsqueeze(1))
        assert self.decoder.bias is not None
        self.decoder.bias.copy_(actor.decoder.bias)
        return self


class PopSANLoop(Coded):
    """PopSAN-style loop: each spike step goes through all layers before the next one starts."""

    def spikes(self, obs: Tensor) -> Tensor:
        """Spikes of the output neurons, [T, B, action_dim * P]."""
        zeros = self.zeros(len(obs))
        current, v, fired = list(zeros), list(zeros), list(zeros)
        out = []
        for spike in self.encode(obs):
            for k, linear in enumerate(self.linears):
                current[k] = current[k] * I_DECAY + linear(spike)
                v[k] = v[k] * V_DECAY * (1.0 - fired[k]) + current[k]
                fired[k] = spike = rectangle_spike(v[k])
            out.append(spike)
        return torch.stack(out)
