"""One module on two ranks; mixed precision with every scaling of the loss."""

import contextlib
import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from policies.distributed import DataParallel, FixedScaler, data_parallel
from tests.policies.distributed import checks_data_parallel
from tests.policies.distributed.common import distance, same

TOLERANCE = 1e-6


def test_a_module_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def autocast(amp: str, device: torch.device) -> Any:
        asked.append(device.type)
        return contextlib.nullcontext()

    monkeypatch.setattr(data_parallel, "autocast", autocast)
    net = DataParallel(nn.Linear(4, 2), amp="bf16")
    net(torch.ones(3, 4))
    net.to("meta")(torch.ones(3, 4, device="meta"))
    assert asked == ["cpu", "meta"]


def test_gradients_are_those_of_one_process(ranks: dict[str, list[Any]]) -> None:
    found = ranks["equal_gradients"]
    assert same(*found)
    for name, reference in checks_data_parallel.equal_gradients().items():
        assert distance(found[0][name], reference) < TOLERANCE, name


def test_the_module_alone_trains_apart(ranks: dict[str, list[Any]]) -> None:
    assert not same(*ranks["module_alone"])


def test_parameters_gradients_and_results_are_float32(ranks: dict[str, list[Any]]) -> None:
    assert same(*ranks["precisions"])
    found = ranks["precisions"][0]
    inside = {"None": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    reference = found["None"]["parameters"]
    for name, mine in found.items():
        assert mine["inside"] == inside[name]
        assert mine["float32"]
        assert mine["enabled"] == (name == "fp16")
        moved = [distance(p, q) for p, q in zip(mine["parameters"], reference, strict=True)]
        assert max(moved) < 0.3
        assert (max(moved) > 0) == (name != "None")


def test_results_within_structures(ranks: dict[str, list[Any]]) -> None:
    assert ranks["structures"] == [[torch.float32, torch.float32, 1, "list"]] * 2


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_scaled_losses_train_and_skip_what_is_infinite(
    ranks: dict[str, list[Any]], kind: str
) -> None:
    found = [mine[kind] for mine in ranks["loss_scales"]]
    assert same(found[0]["parameters"], found[1]["parameters"])
    assert found[0]["scales"] == found[1]["scales"]
    for mine in found:
        assert sum(mine["losses"][-5:]) < 0.7 * sum(mine["losses"][:5])
        assert not mine["moved"][20]
        assert all(mine["moved"][25:])
        assert mine["fixed"] == (kind == "fixed")
        if kind == "fixed":
            assert set(mine["scales"]) == {1024.0}
        else:
            assert mine["scales"][20] == mine["scales"][19] / 2
            assert mine["scales"][-1] == mine["scales"][20]


def test_rank_0_may_evaluate_alone(ranks: dict[str, list[Any]]) -> None:
    assert ranks["rank_0_evaluates"] == [True, True]


def test_copies_are_parallel_too(ranks: dict[str, list[Any]]) -> None:
    found = ranks["copies"]
    assert same(*found)
    for name in ("copy", "pickle", "again"):
        assert same(found[0][name], found[0]["first"]), name
    assert found[0]["names"] == [True, ["module.0.weight", "module.1.weight"]]


def test_built_before_the_group(ranks: dict[str, list[Any]]) -> None:
    assert same(*ranks["built_early"])
    reference = checks_data_parallel.built_early()
    assert same(ranks["built_early"][0]["weight"], reference["weight"])
    assert distance(ranks["built_early"][0]["gradients"], reference["gradients"]) < TOLERANCE


def test_modules_without_anything_to_train(ranks: dict[str, list[Any]]) -> None:
    assert ranks["nothing_to_train"][0].dtype == torch.float32
    assert same(*ranks["nothing_to_train"])


def test_different_modules_are_refused(ranks: dict[str, list[Any]]) -> None:
    for (error,) in ranks["wrong_modules"]:
        assert error.startswith("ValueError: every rank must build the same module")


@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_one_process_is_the_module_in_mixed_precision(amp: Any) -> None:
    module = nn.Linear(4, 3)
    net = DataParallel(module, amp=amp)
    x = torch.randn(5, 4)
    assert net(x).dtype == torch.float32
    assert torch.equal(net(x), module(x)) == (amp is None)
    twin = copy.deepcopy(net)
    assert same(dict(twin.state_dict()), dict(net.state_dict()))
    file = io.BytesIO()
    torch.save(net, file)
    assert list(net.state_dict()) == ["module.weight", "module.bias"]


def test_wrong_settings_are_named() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="amp must be None, 'bf16' or 'fp16', got 'fp8'"):
        DataParallel(net, amp="fp8")  # type: ignore[arg-type]
    for amp, scale in (("bf16", 8.0), (None, 8.0), ("fp16", 0.0), ("fp16", float("inf"))):
        with pytest.raises(ValueError, match="loss_scale must be positive"):
            DataParallel(net, amp=amp, loss_scale=scale)  # type: ignore[arg-type]


def test_a_fixed_scale_can_be_an_integer_and_be_loaded() -> None:
    scaler = FixedScaler("cpu", 256)
    scaler.scale(torch.zeros(()))
    scaler.update()
    assert scaler.get_scale() == 256.0
    other = FixedScaler("cpu", 2.0)
    other.load_state_dict(scaler.state_dict())
    other.scale(torch.zeros(()))
    other.update()
    assert other.get_scale() == 2.0
