"""Averaged gradients are those of one process."""

from typing import Any

import pytest
import torch
from torch import nn

from policies.distributed import average_gradients, loss_factor
from tests.policies.distributed import checks_gradients
from tests.policies.distributed.common import distance, gradients, normal, same

TOLERANCE = 1e-6


def test_the_mean_is_that_of_the_whole_batch(ranks: dict[str, list[Any]]) -> None:
    reference = checks_gradients.means()
    assert same(*ranks["means"])
    for name, ours in ranks["means"][0].items():
        assert distance(ours, reference[name]) < TOLERANCE, name
    # Where messages are cut changes nothing.
    assert same(ranks["means"][0]["uneven"], ranks["means"][0]["small messages"])
    assert same(ranks["means"][0]["uneven"], ranks["means"][0]["smallest messages"])


def test_factors_on_losses_do_the_same(ranks: dict[str, list[Any]]) -> None:
    assert same(*ranks["scaled_losses"])
    assert distance(ranks["scaled_losses"][0], checks_gradients.means()["uneven"]) < TOLERANCE


def test_without_weights_or_averaging_they_are_others(ranks: dict[str, list[Any]]) -> None:
    reference = checks_gradients.means()
    assert distance(ranks["unweighted"][0], reference["uneven"]) > 0.01
    for mine in ranks["alone"]:
        assert distance(mine, reference["even"]) > 0.01
    assert not same(*ranks["alone"])


def test_missing_gradients_count_as_zero(ranks: dict[str, list[Any]]) -> None:
    for mine in ranks["missing"]:
        assert [None if g is None else g.tolist() for g in mine] == [
            None,
            [0.5, 0.5],
            [1.0, 1.0],
            [1.5, 1.5],
            None,
        ]


def test_every_dtype_keeps_its_own(ranks: dict[str, list[Any]]) -> None:
    assert same(*ranks["dtypes"])
    ours = ranks["dtypes"][0]
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    shapes: tuple[tuple[int, ...], ...] = ((), (0,), (2, 3))
    for i, (shape, kind) in enumerate((shape, kind) for shape in shapes for kind in kinds):
        parts = [normal(*shape[::-1], seed=10 * i + r).to(kind) for r in range(2)]
        parts = [p.t() if p.dim() == 2 else p for p in parts]
        wide = torch.promote_types(kind, torch.float32)
        mean = ((parts[0].to(wide) + parts[1].to(wide)) / 2).to(kind)
        for bucket in (3, 1000):
            assert same(ours[f"{bucket}, {i}"], mean)


def test_a_rank_without_valid_steps_does_not_count(ranks: dict[str, list[Any]]) -> None:
    for mine in ranks["nothing_to_weigh"]:
        assert mine["gradient"].tolist() == [2.0, 2.0, 2.0]


def test_refusals_are_named(ranks: dict[str, list[Any]]) -> None:
    expected = ["weight must be"] * 3 + ["0 on all ranks", "dense", "weight must be", "0 on all"]
    for mine in ranks["refusals"]:
        for error, part in zip(mine, expected, strict=True):
            assert error.startswith("ValueError: ")
            assert part in error


def test_one_process_keeps_its_gradients() -> None:
    net = nn.Linear(3, 2)
    net(normal(4, 3)).sum().backward()
    before = gradients(net)
    average_gradients(net.parameters(), weight=4.0)
    assert same(gradients(net), before)
    assert loss_factor(7.0) == 1.0
    with pytest.raises(ValueError, match="weight must be"):
        average_gradients(net.parameters(), weight=-1.0)
