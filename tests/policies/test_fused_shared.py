"""Compiled layers where batch norms share their statistics with other processes."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from policies.fused_transformer import runs_fused
from policies.normalization import TdBN
from tests.kernels import NEEDS_NUMBA
from tests.policies.test_transformer_fused import B, D, L, network, normal

pytestmark = NEEDS_NUMBA


def test_all_norms_share_with_the_same_processes() -> None:
    net: Any = network("numba")
    x = normal(B, L, D)

    def shared(part: Tensor) -> Tensor:
        return part

    for module in net.modules():
        if isinstance(module, TdBN):
            module.sums = shared
    assert runs_fused(net, x, 0.0)
    net.blocks[0].mlp.up.current.norm.bn.sums = None
    assert not runs_fused(net, x, 0.0)


@pytest.mark.parametrize("other", [0.0, 1.0])
@pytest.mark.parametrize("ours", [0.0, 1.0])
def test_processes_that_share_statistics_run_alike(ours: float, other: float) -> None:
    """The compiled layers exchange other messages than the modules."""
    net: Any = network("numba")
    sums = _Other(other)
    for module in net.modules():
        if isinstance(module, TdBN):
            module.sums = sums
    if not ours:
        net.blocks[0].mlp.register_forward_hook(lambda *_: None)
    warns = pytest.warns(UserWarning, match="not in another one")
    with warns if ours > other else nullcontext():
        assert runs_fused(net, normal(B, L, D), 0.0) == (ours == other == 1.0)
    assert sums.calls == 1
    # Nobody is asked where the answer is known to all.
    assert not runs_fused(net.eval(), normal(B, L, D), 0.0)
    net = network("torch")
    for module in net.modules():
        if isinstance(module, TdBN):
            module.sums = sums
    assert not runs_fused(net, normal(B, L, D), 0.0)
    assert sums.calls == 1


class _Other:
    """The sum over this process and another one, which says that."""

    def __init__(self, says: float) -> None:
        self.says = torch.tensor([says, 1.0])
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.says
