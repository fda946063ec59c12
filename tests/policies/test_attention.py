"""Token mixing against sums written out, and what it must not see."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from policies.attention import PositionalAttention, make_attention

KINDS = ("sssa", "tssa", "pssa", "softmax")


def spikes(
    steps: int = 3, batch: int = 4, length: int = 9, width: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.rand(3, steps, batch, length, width, generator=generator) > 0.6).float()
    return q, k, v


def padding(batch: int, length: int) -> Tensor:
    return (torch.arange(length) >= 2 * torch.arange(batch)[:, None]).float()


def written_out(
    kind: str, heads: int, weight: Tensor | None, q: Tensor, k: Tensor, v: Tensor, valid: Tensor
) -> Tensor:
    steps, batch, length, width = q.shape
    size = width // heads
    out = torch.zeros_like(q)
    for b in range(batch):
        for i in range(length):
            keys = [j for j in range(i + 1) if valid[b, j]]
            for t in range(steps):
                if kind == "pssa":
                    assert weight is not None
                    for j in keys:
                        if i - j < weight.shape[1]:
                            out[t, b, i] += q[t, b, i] * weight[i, i - j] * k[t, b, j] * v[t, b, j]
                    continue
                for h in range(heads):
                    s = slice(h * size, (h + 1) * size)
                    scores = [
                        (q[:, b, i, s] * k[:, b, j, s]).sum()
                        if kind == "tssa"
                        else (q[t, b, i, s] * k[t, b, j, s]).sum()
                        for j in keys
                    ]
                    if kind == "softmax" and keys:
                        scores = list(torch.softmax(torch.stack(scores) / size**0.5, dim=0))
                    for score, j in zip(scores, keys, strict=True):
                        out[t, b, i, s] += score * v[t, b, j, s]
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("heads", "length", "window"), [(1, 9, 4), (4, 9, 3), (2, 5, 8), (2, 1, 1)]
)
def test_sums_written_out(kind: str, heads: int, length: int, window: int) -> None:
    q, k, v = spikes(length=length)
    valid = padding(4, length)
    mix = make_attention(kind, heads, context=9, window=window)
    weight = None
    if isinstance(mix, PositionalAttention):
        torch.nn.init.normal_(mix.weight, generator=torch.Generator().manual_seed(2))
        weight = mix.weight.detach()
    expected = written_out(kind, heads, weight, q, k, v, valid)
    torch.testing.assert_close(mix(q, k, v, valid).detach(), expected, atol=1e-5, rtol=0)
    if kind in ("sssa", "tssa"):
        assert torch.equal(mix(q, k, v, valid), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_future_change_no_bit(kind: str) -> None:
    mix = make_attention(kind, 2, context=20, window=8)
    valid = padding(4, 20)
    q, k, v = spikes(length=20)
    other = spikes(length=20, seed=9)
    out = mix(q, k, v, valid)
    unseen = (valid[None, :, :, None] == 0).expand_as(q)
    padded = [torch.where(unseen, b, a) for a, b in zip((q, k, v), other, strict=True)]
    kept = valid.bool()
    assert torch.equal(mix(*padded, valid)[:, kept], out[:, kept])
    for cut in (1, 7, 13):
        later = [
            torch.cat([a[:, :, :cut], b[:, :, cut:]], 2)
            for a, b in zip((q, k, v), other, strict=True)
        ]
        assert torch.equal(mix(*later, valid)[:, :, :cut], out[:, :, :cut])


def test_no_valid_key_gives_zero() -> None:
    q, k, v = spikes()
    for kind in KINDS:
        out = make_attention(kind, 2, context=9, window=4)(q, k, v, torch.zeros(4, 9))
        assert torch.equal(out, torch.zeros_like(out))


def test_positional_work_grows_with_the_window_not_the_square() -> None:
    def work(length: int, window: int) -> int:
        q, k, v = spikes(length=length)
        mix = PositionalAttention(length, window)
        with FlopCounterMode(display=False) as counter:
            mix(q, k, v)
        return int(counter.get_total_flops())

    assert work(512, 8) == 8 * work(64, 8)
    # Two blocks of keys per query, twice a multiply and an add, for T * B * D = 96 values.
    assert work(512, 8) == 512 * 2 * 8 * 2 * 96


def test_positional_gradient_is_the_window_s() -> None:
    q, k, v = spikes()
    mix = PositionalAttention(12, 4)
    mix(q, k, v).sum().backward()
    grad = mix.weight.grad
    assert grad is not None
    for i in range(12):
        for offset in range(4):
            seen = i < 9 and i - offset >= 0
            expected = float((q[:, :, i] * (k * v)[:, :, i - offset]).sum()) if seen else 0.0
            assert float(grad[i, offset]) == expected
