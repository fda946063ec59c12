"""Mixing of tokens by spiking self-attention: SSSA, TSSA, PSSA, and softmax attention on spikes.

Queries, keys and values are spikes in {0, 1}, [T, B, L, D] (spike step, batch, context, feature);
so is `valid` [B, L], 1 for tokens that exist and 0 for padding. Per head, with i the query's and j
the key's position, j <= i, sums over valid j:

    SSSA      out_i[t] = sum_j (q_i[t] . k_j[t]) v_j[t]
    TSSA      out_i[t] = sum_j (sum_t' q_i[t'] . k_j[t']) v_j[t]
    PSSA      out_i[t] = q_i[t] * sum_j P_ij (k_j[t] * v_j[t]),  i - j < window, elementwise
    softmax   out_i[t] = sum_j softmax_j(q_i[t] . k_j[t] / sqrt(d)) v_j[t]

The first two add integers; there is no scale, so out may be large. PSSA adds learned weights, one
for each position and distance, shared by features and spike steps: heads make no difference to it.
Only its window is computed. The softmax multiplies real numbers and cannot be spike-driven.

Source: Huang et al. 2025 (DSFormer: SSSA, TSSA, PSSA); Uddin et al. 2025 (STRL: softmax).
Differs: the release holds P as [L, L] and multiplies all of it by a mask.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Attention = Literal["pssa", "tssa", "sssa", "softmax"]

# Windows of a context that PSSA computes at once.
STRETCH = 16


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[T, B, L, D] -> [T, B, H, L, d]."""
    steps, batch, length, features = x.shape
    heads = x.reshape(steps, batch, length, num_heads, features // num_heads)
    return heads.transpose(2, 3)


def _merge(x: Tensor) -> Tensor:
    # [T, B, H, L, d] -> [T, B, L, D]
    return x.transpose(2, 3).flatten(3)


def carry_faults(fault: Tensor, valid: Tensor | None) -> Tensor:
    """Marks [B, L, 1] of keys and values, carried to every token that may attend to them."""
    if valid is not None:
        fault = torch.where(valid[..., None] > 0, fault, 0.0)
    return fault.cumsum(dim=1)


def visible(length: int, valid: Tensor | None, like: Tensor) -> Tensor:
    """1 where query i may see key j, [1 or B, 1, L, L]."""
    causal = torch.ones(length, length, dtype=like.dtype, device=like.device).tril()
    if valid is None:
        return causal[None, None]
    return causal * valid.to(like.dtype)[:, None, None, :]


class StepAttention(nn.Module):
    """SSSA: integer scores of each spike step for itself.

    Args:
        num_heads: heads, a divisor of D.
        dropout: probability of dropping a score in training.
    """

    def __init__(self, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        """Spikes q, k, v [T, B, L, D] and valid [B, L] -> counts [T, B, L, D]."""
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) * visible(q.shape[-2], valid, q)
        return _merge(self.dropout(scores) @ v)


class TemporalAttention(nn.Module):
    """TSSA: integer scores summed over all spike steps, shared by them.

    Args:
        num_heads: heads, a divisor of D.
        dropout: probability of dropping a score in training.
    """

    def __init__(self, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        """Spikes q, k, v [T, B, L, D] and valid [B, L] -> counts [T, B, L, D]."""
        steps, batch, length, features = q.shape
        # [T, B, H, L, d] -> [B, H, L, T * d]
        q, k, v = (
            split_heads(x, self.num_heads).permute(1, 2, 3, 0, 4).flatten(3) for x in (q, k, v)
        )
        scores = q @ k.transpose(-1, -2) * visible(q.shape[-2], valid, q)
        out: Tensor = self.dropout(scores) @ v
        size = features // self.num_heads
        out = out.reshape(batch, self.num_heads, length, steps, size)
        # [B, H, L, T, d] -> [T, B, L, H * d]
        return out.permute(3, 0, 2, 1, 4).flatten(3)


class PositionalAttention(nn.Module):
    """PSSA: learned weights of each position and distance within a causal window.

    `weight` is [context, window]: weight[i, o] belongs to query i and key i - o; it starts at 1.

    Args:
        context: longest sequence, in tokens.
        window: tokens that a query sees, itself included.
        dropout: probability of dropping a weight in training.
    """

    def __init__(self, context: int, window: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.window = min(window, context)
        self.weight = nn.Parameter(torch.ones(context, self.window))
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        """Spikes q, k, v [T, B, L, D] and valid [B, L] -> weighted sums [T, B, L, D]."""
        # As numbers also where a trace would follow them: a graph is traced for one length.
        steps, batch, length, features = (int(size) for size in q.shape)
        window = self.window
        blocks, size = -(-length // window), STRETCH * window
        weights = self._blocks(length, blocks).split(_sizes(blocks, STRETCH))
        before = k.new_zeros(steps, batch, window, features)
        out = []
        # In stretches that fit the cache, so that the time grows no faster than the work.
        for i, (q_i, k_i, v_i) in enumerate(
            zip(*(x.split(_sizes(length, size), dim=2) for x in (q, k, v)), strict=True)
        ):
            kv = k_i * v_i
            if valid is not None:
                seen = valid[:, i * size : (i + 1) * size]
                kv = kv * seen.to(kv.dtype)[None, :, :, None]
            out.append(q_i * self._mix(before, kv, weights[i]))
            before = kv[:, :, -window:]
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)

    def _mix(self, before: Tensor, kv: Tensor, weights: Tensor) -> Tensor:
        """Sum weight[i, o] * kv[i - o] over the window, for a stretch of a context.

        Queries go in blocks of `window`; a block's keys lie in it and in the block before, so the
        work grows with L * window.

        Args:
            before: keys times values of the block before the stretch, [T, B, window, D].
            kv: those of the stretch, [T, B, l, D].
            weights: see `_blocks`.
        """
        steps, batch, length, features = (int(size) for size in kv.shape)
        window, blocks = self.window, len(weights)
        # The last block filled up.
        rest = kv.new_zeros(steps, batch, blocks * window - length, features)
        kv = torch.cat([before, kv, rest], dim=2).view(steps, batch, blocks + 1, window, features)
        # [T, B, n, 2 * w, D]: each block behind the one before it
        keys = torch.cat([kv[:, :, :-1], kv[:, :, 1:]], dim=3)
        mixed: Tensor = weights @ keys
        return mixed.flatten(2, 3)[:, :, :length]

    def _blocks(self, length: int, blocks: int) -> Tensor:
        """The weights as matrices [n, w, 2 * w] of a block's queries and two blocks' keys."""
        window = self.window
        weight = self.dropout(self.weight)[:length].flip(1)  # oldest key first
        rest = weight.new_zeros(blocks * window - length, window)
        rows = torch.cat([weight, rest]).view(blocks, window, window)
        # Row r of a block starts r + 1 keys in: fill each row up to 2 w + 1 entries and read them
        # in rows of 2 w, which shifts row r by r.
        front, back = rows.new_zeros(blocks, window, 1), rows.new_zeros(blocks, window, window)
        shifted = torch.cat([front, rows, back], dim=2).flatten(1)
        return shifted[:, : 2 * window * window].reshape(blocks, window, 2 * window)


def _sizes(total: int, size: int) -> list[int]:
    """The sizes of stretches of a length; written out, since traced graphs lose a shorter last."""
    whole, rest = divmod(total, size)
    return [size] * whole + [rest] * (rest > 0)


class SoftmaxAttention(nn.Module):
    """Softmax attention on spikes (STRL).

    Args:
        num_heads: heads, a divisor of D.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
        """Spikes q, k, v [T, B, L, D] and valid [B, L] -> averages [T, B, L, D].

        A query that sees no valid key gets 0.
        """
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        seen = visible(q.shape[-2], valid, q)
        # The largest negative number, not infinity: a row without keys stays finite.
        scores = scores.masked_fill(seen == 0, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1) * seen
        return _merge(self.dropout(weights) @ v)


def make_attention(
    kind: str, num_heads: int, context: int, window: int, dropout: float = 0.0
) -> nn.Module:
    """The token mixer of that kind; `context` and `window` concern PSSA alone."""
    if kind == "pssa":
        return PositionalAttention(context, window, dropout)
    if kind == "tssa":
        return TemporalAttention(num_heads, dropout)
    if kind == "sssa":
        return StepAttention(num_heads, dropout)
    return SoftmaxAttention(num_heads, dropout)
