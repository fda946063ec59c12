"""Networks with shared statistics train on two ranks as on one process."""

from typing import Any

import pytest
import torch

from tests.policies.distributed import checks_statistics
from tests.policies.distributed.common import distance, same

TOLERANCE = 1e-6


def assert_equal(found: list[Any], reference: Any, name: str, axis: int, tolerance: float) -> None:
    """Both ranks' parts of outputs and inputs, and what they have in common."""
    for mine in found:
        assert distance(mine["gradients"], reference["gradients"]) < tolerance, name
        assert distance(mine["buffers"], reference["buffers"]) < tolerance, name
    assert same(found[0]["gradients"], found[1]["gradients"])
    assert same(found[0]["buffers"], found[1]["buffers"])
    for key in ("outputs", "input"):
        if key in reference:
            ours = torch.cat([f[key] for f in found], dim=axis)
            assert distance(ours, reference[key]) < tolerance, (name, key)


def test_normalizers(ranks: dict[str, list[Any]]) -> None:
    reference = checks_statistics.normalizers()
    for name, expected in reference.items():
        found = [mine[name] for mine in ranks["normalizers"]]
        for mine in found:
            assert distance(mine["gradients"], expected["gradients"]) < TOLERANCE, name
            for key in ("during", "buffers"):
                for buffer, value in expected[key].items():
                    if not buffer.endswith("_error"):  # what rounding has kept out of a mean
                        assert distance(mine[key][buffer], value) < TOLERANCE, (name, buffer)
        assert same(found[0]["buffers"], found[1]["buffers"])
        for step, output in enumerate(expected["outputs"]):
            ours = torch.cat([mine["outputs"][step] for mine in found])
            assert torch.equal(ours.isnan(), output.isnan())
            assert distance(ours.nan_to_num(), output.nan_to_num()) < TOLERANCE
    plain, bounds = (reference[f"{kind}, deferred=False"] for kind in ("plain", "bounds"))
    assert plain["buffers"]["normalizer.running_count"] == 24
    assert bounds["buffers"]["normalizer.running_fixed"].tolist() == [1, 1, 0, 1]
    nan = reference["nan, deferred=True"]["buffers"]
    assert nan["normalizer.running_count"] == 8


def test_normalizers_that_share_nothing_differ(ranks: dict[str, list[Any]]) -> None:
    reference = checks_statistics.normalizers()
    for mine in ranks["normalizers_apart"]:
        for name, found in mine.items():
            assert distance(found["buffers"], reference[name]["buffers"]) > 0.01, name


def test_a_batch_of_nothing_changes_no_normalizer(ranks: dict[str, list[Any]]) -> None:
    for mine in ranks["empty_normalizer"]:
        assert mine["before"]["running_count"] == 8
        assert same(mine["before"], mine["after"])


@pytest.mark.parametrize("name", list(checks_statistics.TOKENS))
def test_norms_of_the_transformer(ranks: dict[str, list[Any]], name: str) -> None:
    reference = checks_statistics._tokens(name, share=False)
    found = [mine[name] for mine in ranks["tokens"]]
    assert_equal(found, reference, name, 1, 1e-13 if "float64" in name else TOLERANCE)
    # Without any token on rank 1 there is nothing to share.
    for mine in [] if "all of rank 1" in name else ranks["tokens_apart"]:
        assert distance(mine[name]["gradients"], reference["gradients"]) > 0.001


@pytest.mark.parametrize("name", list(checks_statistics.BATCH_NORMS))
def test_batch_norms(ranks: dict[str, list[Any]], name: str) -> None:
    reference = checks_statistics._batch_norm(name, share=False)
    found = [mine[name] for mine in ranks["batch_norms"]]
    assert_equal(found, reference, name, 0, 1e-13 if name == "float64" else TOLERANCE)
    apart = [mine[name] for mine in ranks["batch_norms_apart"] if name in mine]
    if apart:
        outputs = torch.cat([mine["outputs"] for mine in apart])
        assert distance(outputs, reference["outputs"]) > 0.001


def test_evaluation_waits_for_nobody(ranks: dict[str, list[Any]]) -> None:
    for mine in ranks["evaluation_alone"]:
        assert same(mine["before"], mine["after"])
        assert mine["names"] == ["SharedBatchNorm1d", "SharedBatchNorm1d", "RunningNormalizer"]


def test_unknown_norms_are_named(ranks: dict[str, list[Any]]) -> None:
    for refused, fine in ranks["unknown_norm"]:
        assert refused.startswith("ValueError: inner is a Own")
        assert fine == ""
