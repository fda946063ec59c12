"""Norms by hand, their statistics, and their fold."""

import pytest
import torch
from torch import Tensor, nn

from policies.normalization import (
    PTBN,
    Folded,
    NormConfig,
    TdBN,
    TdLN,
    affine,
    fold_after,
    fold_before,
    make_norm,
)

FEATURES = 5


def values(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(3, 4, 6, FEATURES, generator=generator) + 1.0


def scatter(norm: nn.Module) -> None:
    """Weights and statistics away from where they start."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))


def layer(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def batch(x: Tensor) -> Tensor:
    return (x - x.mean((0, 1, 2))) / (x.var((0, 1, 2), correction=0) + 1e-5).sqrt()


def test_layer_and_batch_norm_by_hand() -> None:
    x = values()
    torch.testing.assert_close(TdLN(FEATURES, 0.5)(x), 0.5 * layer(x))
    torch.testing.assert_close(TdBN(FEATURES, 0.5)(x), 0.5 * batch(x))


@pytest.mark.parametrize("theta", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_ptbn_moves_from_layer_to_batch(theta: float, as_tensor: bool) -> None:
    x = values()
    norm = make_norm(FEATURES, NormConfig(gain=0.5))
    out = norm(x, torch.tensor(theta) if as_tensor else theta)
    torch.testing.assert_close(out, 0.5 * (theta * layer(x) + (1.0 - theta) * batch(x)))


def test_ptbn_evaluates_with_running_statistics_whatever_theta() -> None:
    x = values()
    norm = make_norm(FEATURES, NormConfig())
    norm(x, 1.0)
    norm.eval()
    assert isinstance(norm, PTBN)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2), correction=1)
    expected = 0.5 * (x - 0.1 * mean) / (0.9 + 0.1 * var + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, 1.0), expected)
    assert torch.equal(norm(x, 1.0), norm(x, 0.0))


def test_theta_is_the_caller_s() -> None:
    norm = make_norm(FEATURES, NormConfig())
    first = norm(values(), 0.7)
    for _ in range(5):
        norm(values(2), 0.7)
    assert torch.equal(norm(values(), 0.7), first)


def test_the_other_variant() -> None:
    norm = make_norm(FEATURES, NormConfig(layer_steps=3, shortcut=True))
    assert isinstance(norm, PTBN)
    assert norm.ln.weight.shape == (3, FEATURES)
    x = values()
    axes = (0, 3)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    expected = 0.25 * 0.5 * (x - mean) / (var + 1e-5).sqrt() + 0.75 * (0.5 * batch(x) + x)
    torch.testing.assert_close(norm(x, 0.25), expected)


def test_masked_statistics_are_those_of_the_tokens_that_exist() -> None:
    x = values()
    valid = (torch.arange(6) >= torch.arange(4)[:, None]).float()
    norm = TdBN(FEATURES, 0.5, masked=True)
    kept = x[:, valid.bool()]  # [T, tokens, N]
    expected = 0.5 * (x - kept.mean((0, 1))) / (kept.var((0, 1), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x, valid=valid), expected)
    torch.testing.assert_close(norm.running_mean, 0.1 * kept.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * kept.var((0, 1), correction=1))
    x[:, ~valid.bool()] = 1e3
    torch.testing.assert_close(norm(x, valid=valid)[:, valid.bool()], expected[:, valid.bool()])


def test_masked_statistics_of_a_batch_without_tokens() -> None:
    norm = TdBN(FEATURES, 0.5, masked=True)
    before = norm.running_var.clone()
    x = values().requires_grad_()
    out = norm(x, valid=torch.zeros(4, 6))
    out.sum().backward()
    assert torch.equal(norm.running_var, before)
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    torch.testing.assert_close(out.detach(), 0.5 * x.detach(), atol=1e-4, rtol=1e-4)


def test_masked_equals_unmasked_without_padding() -> None:
    x = values()
    masked, plain = TdBN(FEATURES, 0.5, masked=True), TdBN(FEATURES, 0.5)
    torch.testing.assert_close(masked(x, valid=torch.ones(4, 6)), plain(x))
    torch.testing.assert_close(masked.running_var, plain.running_var)


@pytest.mark.parametrize(
    "config",
    [
        NormConfig(kind="tdbn"),
        NormConfig(kind="ptbn"),
        NormConfig(kind="ptbn", layer_steps=3, shortcut=True),
    ],
)
def test_fold(config: NormConfig) -> None:
    torch.manual_seed(0)
    x = values()
    norm = make_norm(FEATURES, config).eval()
    scatter(norm)
    before, after = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 2)
    expected = norm(before(x))
    fold_after(before, norm)
    torch.testing.assert_close(before(x), expected)
    expected = after(norm(x))
    fold_before(norm, after)
    torch.testing.assert_close(after(x), expected)


def test_what_cannot_be_folded_says_so() -> None:
    with pytest.raises(ValueError, match=r"'tdln' cannot be folded.*train with"):
        affine(TdLN(FEATURES, 0.5))
    with pytest.raises(ValueError, match="folded already"):
        affine(Folded())
    x = values()
    assert Folded()(x) is x
