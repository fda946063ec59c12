"""DSFormer written out from its equations, token by token where that is plainer: slow, on purpose.

Nothing of `policies` is used, so that agreement means something. Weights go by the names of the
released state dict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class Spike(torch.autograd.Function):
    """v > 0.5, and 1 where |v - 0.5| < 0.5 backward."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0.5).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        grad: Tensor = grads[0] * ((v - 0.5).abs() < 0.5)
        return grad


@dataclass
class Reference:
    """One network; `rates` collects the mean of every layer of neurons, in call order."""

    weights: Mapping[str, Tensor]
    attention: str
    normalization: str
    heads: int = 1
    steps: int = 4
    window: int = 8
    layers: int = 2
    rates: list[float] = field(default_factory=list)

    def neurons(self, x: Tensor) -> Tensor:
        """LIF over the first axis: v' = v / 4 (1 - s) + x."""
        v, s, out = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for x_t in x:
            v = 0.25 * v * (1.0 - s.detach()) + x_t
            s = Spike.apply(v)  # type: ignore[no-untyped-call]
            out.append(s)
        spikes = torch.stack(out)
        self.rates.append(float(spikes.detach().mean()))
        return spikes

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Linear layer of that name."""
        return x @ self.weights[f"{name}.weight"].t() + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, theta: float | None) -> Tensor:
        """Norm of that name; theta None means evaluation mode."""
        ptbn = self.normalization == "ptbn"
        layer = batch = x
        if self.normalization in ("ptbn", "tdln"):
            branch = f"{name}.norm.norm1.ln" if ptbn else f"{name}.norm.ln"
            mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
            layer = (x - mean) / (var + 1e-5).sqrt() * self.weights[f"{branch}.weight"]
            layer = layer + self.weights[f"{branch}.bias"]
        if self.normalization in ("ptbn", "tdbn"):
            branch = f"{name}.norm.norm2.bn" if ptbn else f"{name}.norm.bn"
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2), correction=0)
            if theta is None:
                mean = self.weights[f"{branch}.running_mean"]
                var = self.weights[f"{branch}.running_var"]
            batch = (x - mean) / (var + 1e-5).sqrt() * self.weights[f"{branch}.weight"]
            batch = batch + self.weights[f"{branch}.bias"]
        if not ptbn:
            return layer if self.normalization == "tdln" else batch
        return batch if theta is None else theta * layer + (1.0 - theta) * batch

    def mix(self, block: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """The attention, query by query."""
        steps, batch, length, width = q.shape
        out = torch.zeros_like(q)
        size = width // self.heads
        for i in range(length):
            for j in range(i + 1):
                seen = mask[:, j, None]  # [B, 1]
                if self.attention == "pssa":
                    if i - j < self.window:
                        weight = self.weights[f"{block}.attn.pos_bias"][i, j]
                        out[:, :, i] = out[:, :, i] + seen * q[:, :, i] * weight * (k * v)[:, :, j]
                    continue
                for h in range(self.heads):
                    part = slice(h * size, (h + 1) * size)
                    score = (q[:, :, i, part] * k[:, :, j, part]).sum(-1, keepdim=True)
                    if self.attention == "tssa":
                        score = score.sum(0, keepdim=True).expand(steps, batch, 1)
                    out[:, :, i, part] = out[:, :, i, part] + seen * score * v[:, :, j, part]
        return out

    def forward(
        self, obs: Tensor, action: Tensor, rtg: Tensor, mask: Tensor, theta: float | None
    ) -> Tensor:
        """Actions [B, L, A]; theta None means evaluation mode."""
        self.rates.clear()
        previous = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], dim=1)
        x = self.linear("embed", torch.cat([obs, previous, rtg], dim=-1))
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = x * self.weights["embed_ln.weight"] + self.weights["embed_ln.bias"]
        x = torch.stack([x] * self.steps)
        for i in range(self.layers):
            block = f"blocks.{i}"
            spikes = self.neurons(x)
            q, k, v = (
                self.neurons(
                    self.norm(
                        f"{block}.attn.{n}_ln", self.linear(f"{block}.attn.{n}_m", spikes), theta
                    )
                )
                for n in "qkv"
            )
            spikes = self.neurons(self.mix(block, q, k, v, mask))
            current = self.linear(f"{block}.attn.last_m", spikes)
            x = x + self.norm(f"{block}.attn.last_ln", current, theta)
            current = self.linear(f"{block}.mlp.fc1", self.neurons(x))
            spikes = self.neurons(self.norm(f"{block}.mlp.ln1", current, theta))
            x = x + self.norm(f"{block}.mlp.ln2", self.linear(f"{block}.mlp.fc2", spikes), theta)
        x = self.norm("last_ln", x, theta).mean(0)
        return torch.tanh(self.linear("predict_action.0", x))


class Weights:
    """Random weights under released names, wide enough for every layer to fire."""

    def __init__(self, normalization: str, seed: int) -> None:
        self.normalization = normalization
        self.generator = torch.Generator().manual_seed(seed)
        self.state: dict[str, Tensor] = {}

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def linear(self, name: str, n_in: int, n_out: int) -> None:
        self.state[f"{name}.weight"] = 1.5 / n_in**0.5 * self.normal(n_out, n_in)
        self.state[f"{name}.bias"] = 0.1 * self.normal(n_out)

    def norm(self, name: str, n: int) -> None:
        ptbn = self.normalization == "ptbn"
        if self.normalization in ("ptbn", "tdln"):
            self._affine(f"{name}.norm.norm1.ln" if ptbn else f"{name}.norm.ln", n)
        if self.normalization in ("ptbn", "tdbn"):
            branch = f"{name}.norm.norm2.bn" if ptbn else f"{name}.norm.bn"
            self._affine(branch, n)
            self.state[f"{branch}.running_mean"] = 0.1 * self.normal(n)
            self.state[f"{branch}.running_var"] = 1.0 + 0.1 * self.normal(n).abs()
            self.state[f"{branch}.num_batches_tracked"] = torch.tensor(3)
        if ptbn:
            for counter, value in (("warm", 0), ("iter", 60), ("total_step", 100)):
                self.state[f"{name}.norm.{counter}"] = torch.tensor(value)

    def _affine(self, name: str, n: int) -> None:
        self.state[f"{name}.weight"] = 0.5 + 0.1 * self.normal(n)
        self.state[f"{name}.bias"] = 0.1 * self.normal(n)


def random_weights(
    attention: str,
    normalization: str,
    *,
    obs: int = 5,
    action: int = 2,
    width: int = 16,
    layers: int = 2,
    length: int = 9,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A state dict in the released names; PTBN has done 40 of 100 steps."""
    weights = Weights(normalization, seed)
    weights.linear("embed", obs + action + 1, width)
    weights.state["embed_ln.weight"] = torch.ones(width)
    weights.state["embed_ln.bias"] = torch.zeros(width)
    for i in range(layers):
        block = f"blocks.{i}"
        for n in ("q", "k", "v", "last"):
            weights.linear(f"{block}.attn.{n}_m", width, width)
            weights.norm(f"{block}.attn.{n}_ln", width)
        weights.linear(f"{block}.mlp.fc1", width, 4 * width)
        weights.norm(f"{block}.mlp.ln1", 4 * width)
        weights.linear(f"{block}.mlp.fc2", 4 * width, width)
        weights.norm(f"{block}.mlp.ln2", width)
        if attention == "pssa":
            weights.state[f"{block}.attn.pos_bias"] = 1.0 + 0.3 * weights.normal(length, length)
            weights.state[f"{block}.attn.local_mask"] = torch.ones(length, length).bool()
    weights.norm("last_ln", width)
    weights.linear("predict_action.0", width, action)
    return weights.state
