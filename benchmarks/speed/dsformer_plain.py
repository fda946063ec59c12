"""DSFormer as its release computes it, in plain PyTorch modules: the yardstick for ours.

Written from the published equations, under the released parameter names. A Python loop over spike
steps in every neuron; the whole [L, L] position matrix of PSSA; both branches of PTBN in every
training forward.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

THRESHOLD, DECAY, MLP_RATIO = 0.5, 0.25, 4


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > THRESHOLD).float()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (v,) = ctx.saved_tensors
        return cast(Tensor, grad_outputs[0] * ((v - THRESHOLD).abs() < 0.5).float())


class Neurons(nn.Module):
    """LIF over the first axis, reset without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Currents [T, ...] -> spikes [T, ...]."""
        v = torch.zeros_like(x[0])
        spike = torch.zeros_like(v)
        out = []
        for current in x:
            v = DECAY * v * (1.0 - spike.detach()) + current
            spike = cast(Tensor, _Spike.apply(v))  # type: ignore[no-untyped-call]  # torch's
            out.append(spike)
        return torch.stack(out)


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        nn.init.constant_(self.ln.weight, THRESHOLD)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ln(x)
        return out


class _Batch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        nn.init.constant_(self.bn.weight, THRESHOLD)

    def forward(self, x: Tensor) -> Tensor:
        # [T, B, L, N] -> [T * B * L, N, 1, 1] and back: of the orders that give these statistics,
        # the fastest on a CPU.
        out: Tensor = self.bn(x.flatten(0, 2)[:, :, None, None])
        return out.view_as(x)


class _Progressive(nn.Module):
    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Layer(width), _Batch(width)
        self.register_buffer("warm", torch.tensor(0))
        self.register_buffer("iter", torch.tensor(steps))
        self.register_buffer("total_step", torch.tensor(steps))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return cast(Tensor, self.norm2(x))
        counter, total = cast(Tensor, self.iter), cast(Tensor, self.total_step)
        theta = float(counter / total)
        counter.copy_((counter - 1).clamp_min(0))
        return cast(Tensor, theta * self.norm1(x) + (1.0 - theta) * self.norm2(x))


class Norm(nn.Module):
    """PTBN under the release's name for it.

    Args:
        width: features.
        steps: training forwards until batch statistics alone remain.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.norm = _Progressive(width, steps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [T, B, L, N]."""
        out: Tensor = self.norm(x)
        return out


class Attention(nn.Module):
    """PSSA: [T, B, L, D] -> [T, B, L, D].

    Args:
        width: D.
        length: longest context, tokens.
        window: tokens that a query sees.
        steps: see Norm.
    """

    def __init__(self, width: int, length: int, window: int, steps: int) -> None:
        super().__init__()
        self.lif = Neurons()
        for name in ("q", "k", "v", "last"):
            setattr(self, f"{name}_m", nn.Linear(width, width))
            setattr(self, f"{name}_ln", Norm(width, steps))
        self.pos_bias = nn.Parameter(torch.ones(length, length))
        local = torch.ones(length, length).tril().triu(1 - window).bool()
        self.register_buffer("local_mask", local)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """What the branch adds; mask [B, L] is 1 for tokens that exist."""
        x = self.lif(x)
        q, k, v = (
            self.lif(getattr(self, f"{n}_ln")(getattr(self, f"{n}_m")(x))) for n in ("q", "k", "v")
        )
        length = x.shape[2]
        weight = (self.pos_bias * cast(Tensor, self.local_mask))[:length, :length]
        mixed = q * (weight @ (k * v * mask[None, :, :, None]))
        out: Tensor = self.last_ln(self.last_m(self.lif(mixed)))  # type: ignore[operator]  # modules
        return out


class FeedForward(nn.Module):
    """[T, B, L, D] -> [T, B, L, D].

    Args:
        width: D.
        steps: see Norm.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.lif = Neurons()
        self.fc1, self.ln1 = nn.Linear(width, MLP_RATIO * width), Norm(MLP_RATIO * width, steps)
        self.fc2, self.ln2 = nn.Linear(MLP_RATIO * width, width), Norm(width, steps)

    def forward(self, x: Tensor) -> Tensor:
        """What the branch adds."""
        x = self.lif(self.ln1(self.fc1(self.lif(x))))
        out: Tensor = self.ln2(self.fc2(x))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, length: int, window: int, steps: int) -> None:
        super().__init__()
        self.attn = Attention(width, length, window, steps)
        self.mlp = FeedForward(width, steps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(x, mask)
        return cast(Tensor, x + self.mlp(x))


class PlainDSFormer(nn.Module):
    """DSFormer with PSSA and PTBN: contexts -> actions.

    Args:
        obs_dim: observation dimensions.
        action_dim: action dimensions.
        width: features of a token.
        layers: blocks.
        length: longest context.
        window: tokens that PSSA sees.
        steps: spike steps (T).
        norm_steps: see Norm.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        width: int = 256,
        layers: int = 3,
        length: int = 20,
        window: int = 8,
        steps: int = 4,
        norm_steps: int = 2000,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.embed = nn.Linear(obs_dim + action_dim + 1, width)
        self.embed_ln = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            _Block(width, length, window, norm_steps) for _ in range(layers)
        )
        self.last_ln = Norm(width, norm_steps)
        self.predict_action = nn.Sequential(nn.Linear(width, action_dim), nn.Tanh())
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, obs: Tensor, action: Tensor, rtg: Tensor, mask: Tensor) -> Tensor:
        """Actions [B, L, A] of observations, actions taken and returns-to-go, [B, L, .] each."""
        previous = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], dim=1)
        x = self.embed_ln(self.embed(torch.cat([obs, previous, rtg], dim=-1)))
        x = x.repeat(self.steps, 1, 1, 1)
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.predict_action(self.last_ln(x).mean(dim=0))
        return out
