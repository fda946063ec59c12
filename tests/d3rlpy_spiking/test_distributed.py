"""d3rlpy's algorithms on two ranks, started once for all tests; see `distributed_checks`."""

import json
from typing import Any

import d3rlpy
import pytest

from d3rlpy_spiking import DSFormerConfig, distribute
from policies.kernels.choice import has_numba
from tests.d3rlpy_spiking.distributed_launch import run_ranks

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each check found, on rank 0 and on rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    code, out = run_ranks("tests.d3rlpy_spiking.distributed_worker", str(folder))
    assert code == 0, out
    assert "terminate called" not in out
    found: Found = [json.loads((folder / f"rank{r}.json").read_text()) for r in range(2)]
    assert not [v for rank in found for v in rank.values() if isinstance(v, str)], found
    return found


# Gradients


def test_gradients_are_those_of_one_process_with_both_batches(ranks: Found) -> None:
    for found in ranks:
        assert len(found["gradients"]) == 11
        for name, errors in found["gradients"].items():
            assert errors["equal"]["all"] < tolerance(name), name
            assert errors["equal"]["small"] < tolerance(name), name
            # Of tensors with little gradient rounding alone makes more: "rounding" is one process
            # with the rows in another order.
            worst = 2.0 * max(errors["rounding"]["worst"], tolerance(name))
            assert errors["equal"]["worst"] < worst, name
            assert errors["running statistics"]["worst"] < max(2e-6, tolerance(name)), name


def tolerance(name: str) -> float:
    """Relative, of gradients in float32."""
    if "bf16" in name:
        return 5e-3  # weights' gradients are rounded on each rank
    # There one process normalizes by PyTorch's batch norm, which sums in another way.
    return 5e-6 if "all tokens" in name else 1e-6


@pytest.mark.parametrize("part", ["no average", "no statistics", "no weights"])
def test_without_any_part_of_it_gradients_differ(ranks: Found, part: str) -> None:
    for found in ranks:
        for name, errors in found["gradients"].items():
            if part != "no weights" or not name.startswith("sdt"):  # d3rlpy's loss counts padding
                assert errors[part]["all"] > 0.1, name


# Updates


def test_ranks_are_equal_to_the_bit_after_twenty_updates(ranks: Found) -> None:
    for found in ranks:
        assert len(found["updates"]) == 9
        for name, result in found["updates"].items():
            same = name != "no average"
            assert result == {"moved": True, "same batches": False, "same state": same}, name
        assert found["fits"] == {"theta": 0.0, "same state": True}
        assert found["q_learning"] == {"TD3PlusBC": True, "IQL": True}


def test_learning_rates_follow_the_tokens_of_all_ranks(ranks: Found) -> None:
    for found in ranks:
        tokens = found["schedules"]["tokens"]
        for name in ("discrete_sdt", "discrete_decision_transformer"):
            one, other = found["schedules"][name]
            assert one == other
            assert one == [tokens, pytest.approx(6e-4 * tokens / 1000)]


def test_one_rank_decides_alone(ranks: Found) -> None:
    assert all(found["acts_alone"] for found in ranks)


def test_files_load_in_one_process_and_in_two(ranks: Found) -> None:
    for rank, found in enumerate(ranks):
        assert len(found["loaded"]) == 5
        for name, result in found["loaded"].items():
            assert result == (name != "without the others" or rank == 0), name


def test_after_the_group_training_goes_on_alone(ranks: Found) -> None:
    for found in ranks:
        assert found["after"]["moved"]
        assert "start the script with torchrun" in found["after"]["error"]


# What is refused


def test_what_cannot_be_distributed_is_named(ranks: Found) -> None:
    messages = {
        "unbuilt": "call build_with_dataset or create_impl first",
        "wrapped": "create the algorithm without enable_ddp",
        "other shapes": "every rank must build the same module",
        "compiled": "set compile_graph=False",
    }
    for found in ranks:
        assert found["refused"].keys() == messages.keys()
        for name, message in messages.items():
            assert message in found["refused"][name]


def test_ranks_that_differ_are_told_where(ranks: Found) -> None:
    messages = {
        "learning rate": "config.learning_rate is 0.001 on rank 0 and 0.002 on rank 1",
        "algorithm": "algorithm is 'DSFormer' on rank 0 and 'SpikingDecisionTransformer' on rank 1",
        "scaler": "config.observation_scaler.params.mean is [",
        "dense scaler": "config.observation_scaler.params.mean is [",
        "mode": "parts in another mode than the whole is [] on rank 0 and ['backbone.",
        "optimizer": "optim is of class Own, whose step is not known",
    }
    for found in ranks:
        assert found["unlike"].keys() == messages.keys()
        for name, message in messages.items():
            assert message in found["unlike"][name]


def test_a_rank_that_cannot_run_compiled_layers_takes_the_others_along(ranks: Found) -> None:
    for rank, found in enumerate(ranks):
        assert found["hooked"]["same"] == [True, True, True]
        assert found["hooked"]["warned"] == (rank == 0 and has_numba())


def test_losses_are_those_of_all_ranks(ranks: Found) -> None:
    for found in ranks:
        losses = found["losses"]
        assert losses["loss"] == pytest.approx(losses["expected"], rel=1e-5)
        assert losses["tacr"]
        assert losses["tacr's"] == ["actor_loss", "critic_loss"]
        assert losses["broken"] == "nan"
    assert ranks[0]["losses"]["loss"] == ranks[1]["losses"]["loss"]


def test_a_group_is_needed() -> None:
    algo = DSFormerConfig(num_layers=1).create(enable_ddp=True)
    with pytest.raises(RuntimeError, match="needs a process group"):
        algo.create_impl((3,), 1)
    dense = d3rlpy.algos.DecisionTransformerConfig(num_layers=1).create()
    with pytest.raises(RuntimeError, match="needs a process group"):
        distribute(dense)


# The command line within the group


def test_the_command_trains_and_goes_on(ranks: Found) -> None:
    for rank, found in enumerate(ranks):
        trained = found["trained"]
        assert trained["codes"] == [0, 0]
        assert trained["state"]
        # 30 steps on each rank, no batch twice.
        assert trained["batches"] == 60
        assert {"model_10.d3", "model_20.d3", "environment.csv"} <= set(trained["files"])
        assert not [name for name in trained["files"] if name.startswith(".") or "module" in name]
        for out, err in trained["said"]:
            assert err == ""
            assert ("step " in out) == (rank == 0)
    assert "environment" in ranks[0]["trained"]["said"][0][0]


@pytest.mark.parametrize(
    ("case", "speaker", "message"),
    [
        ("taken", 0, "holds an unfinished run of 10 steps"),
        ("missing on rank 1", 1, "nowhere.npz: No such file"),
        ("two problems", 0, "nowhere0.npz: No such file"),
        ("evaluate", 0, "evaluate runs in one process"),
        ("another device", 0, "pass --device cuda, which gives each its own"),
    ],
)
def test_an_error_ends_all_ranks_with_one_message(
    ranks: Found, case: str, speaker: int, message: str
) -> None:
    for rank, found in enumerate(ranks):
        code, said = found["failed"][case]
        assert code == 2
        assert (message in said) == (rank == speaker)
        assert said.count("\n") == (1 if rank == speaker else 0)


def test_machines_need_not_share_files(ranks: Found) -> None:
    for rank, found in enumerate(ranks):
        own = found["own files"]
        assert (own["code"], own["err"]) == (0, "")
        assert own["same scaler"]
        assert own["saved"]
        near = own["mean"] == pytest.approx(own["own mean"], abs=1e-6)
        assert near == (rank == 0)
        pieces = found["pieces"]
        assert pieces["content"] == "content"
        assert pieces["gone"] == (rank == 1)
        assert pieces["metrics"] == {"loss": 0.5, "theta": 0.25}


def test_a_fault_ends_all_ranks(ranks: Found) -> None:
    assert ranks[0]["failed"]["fault"] == [None, "RuntimeError: a fault"]
    assert ranks[1]["failed"]["fault"] == [1, ""]
