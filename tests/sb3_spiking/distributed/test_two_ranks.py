"""What training on two ranks promises, on two ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import TD3

from tests.sb3_spiking.distributed.launch import torchrun

Facts = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("facts")


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Facts]:
    done = torchrun("-m", "tests.sb3_spiking.distributed.behaviour", str(folder))
    assert done.returncode == 0, done.stderr
    parts = [torch.load(folder / f"facts_{rank}.pt", weights_only=False) for rank in (0, 1)]
    return {name: [part[name] for part in parts] for name in parts[0]}


def same_parameters(pair: Facts) -> bool:
    first, second = (part["parameters"] for part in pair)
    return all(torch.equal(first[key], second[key]) for key in first)


def test_steps_count_over_all_ranks(facts: dict[str, Facts]) -> None:
    for part in facts["learned"]:
        assert part["steps"] == 102  # the first multiple of two ranks
        assert part["updates"] == 41  # one for each two steps after the warm-up
        assert part["name"] == "TD3"


def test_ranks_see_different_transitions_and_end_alike(facts: dict[str, Facts]) -> None:
    first, second = facts["learned"]
    assert not np.array_equal(first["seen"], second["seen"])
    assert same_parameters(facts["learned"])


def test_saved_file_is_an_ordinary_one(facts: dict[str, Facts], folder: Path) -> None:
    model = TD3.load(folder / "td3.zip")
    assert type(model) is TD3
    assert model.num_timesteps == 102
    assert not hasattr(model, "distribution")
    action = model.predict(np.zeros(5, np.float32), deterministic=True)[0]
    np.testing.assert_array_equal(action, facts["learned"][1]["action"])
    assert list(folder.glob(".td3*")) == []


def test_rank_0_alone_logs(facts: dict[str, Facts], folder: Path) -> None:
    assert len(list(folder.glob("tensorboard/**/events.out.tfevents.*"))) == 1


def test_time_is_split(facts: dict[str, Facts]) -> None:
    for part in facts["learned"]:
        clock = part["clock"]
        assert min(clock.values()) > 0.0
        assert clock["environment"] + clock["gradient"] + clock["exchange"] <= clock["total"]


def test_rank_0_gives_weights_and_entropy_coefficient(facts: dict[str, Facts]) -> None:
    first, second = facts["resumed"]
    assert first["before"] != second["before"]
    assert first["after"] == second["after"] == first["before"]
    assert same_parameters(facts["resumed"])


def test_vec_normalize_has_seen_all_ranks(facts: dict[str, Facts]) -> None:
    first, second = facts["normalized"]
    everything = np.concatenate([first["seen"], second["seen"]])
    for part in facts["normalized"]:
        # Stable-Baselines3 starts from 1e-4 samples of mean 0 and variance 1.
        assert part["count"] == pytest.approx(len(everything) + 1e-4)
        np.testing.assert_allclose(part["mean"], everything.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(part["var"], everything.var(axis=0), atol=1e-5)
        np.testing.assert_array_equal(part["mean"], first["mean"])
        np.testing.assert_array_equal(part["returns"], first["returns"])
    assert same_parameters(facts["normalized"])


def test_one_rank_stops_all(facts: dict[str, Facts]) -> None:
    assert [part["td3"] for part in facts["stopped"]] == [60, 60]
    # It stops in its second rollout, which is not trained on.
    assert [part["ppo"] for part in facts["stopped"]] == [10, 10]


def test_rank_0_alone_stops_all_and_training_can_go_on(facts: dict[str, Facts]) -> None:
    # The first rollout of 32 steps a rank ends it, with every evaluation on both ranks.
    assert facts["threshold"] == [{"steps": 64 + 64, "evaluations": 4}] * 2


def test_replaced_parts_are_shared_too(facts: dict[str, Facts]) -> None:
    first, second = facts["replaced"]
    np.testing.assert_array_equal(first["mean"], second["mean"])
    assert not np.array_equal(first["first"], second["first"])
    assert same_parameters(facts["replaced"])
    assert first["logged"] > 0 == second["logged"]


def test_dict_observations_are_normalized_together(facts: dict[str, Facts]) -> None:
    first, second = facts["dictionaries"]
    assert first["counts"] == second["counts"]
    assert first["counts"]["a"] == pytest.approx(98 + 1e-4)
    for key in ("a", "b"):
        np.testing.assert_array_equal(first["means"][key], second["means"][key])
    np.testing.assert_allclose(first["means"]["b"], 2.0 * first["means"]["a"] + 5.0, atol=1e-4)
    assert same_parameters(facts["dictionaries"])


def test_rollouts_and_updates_share_one_precision(facts: dict[str, Facts]) -> None:
    assert abs(facts["alike"][0]["kl"]) < 1e-6


def test_early_stop_by_divergence_agrees(facts: dict[str, Facts]) -> None:
    first, second = facts["diverged"]
    assert first["updates"] == second["updates"] < 40  # 4 rollouts of 10 epochs without a limit
    assert first["limit"] == 0.005
    assert same_parameters(facts["diverged"])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("settings", "ValueError: all ranks must train alike, but learning_starts is 20 on rank 0"),
        ("split", "ValueError: split=True needs n_steps to be a multiple of the 2 ranks, got 5"),
        ("episodes", "ValueError: train_freq=(1, 'episode') makes ranks train after different"),
        ("late", "ValueError: train_freq=(1, 'episode')"),
        ("total", "ValueError: all ranks must train alike, but total_timesteps is 100 on rank 0"),
        ("apart", "RuntimeError: ranks 0 and 1 no longer hold the same policy"),
        ("wrapper", "ValueError: all ranks must train alike, but VecNormalize is None on rank 0"),
        ("masked", "ValueError: RecurrentPPO with a batch norm cannot be distributed"),
        ("counted", "ValueError: all ranks must train alike, but _n_updates is 0 on rank 0"),
        ("ahead", "ValueError: all ranks must train alike, but num_timesteps is 0 on rank 0"),
    ],
)
def test_what_would_go_apart_is_refused_on_every_rank(
    case: str, words: str, facts: dict[str, Facts]
) -> None:
    for part in facts["refused"]:
        assert part[case].startswith(words)


def test_split_keeps_updates_and_batches_of_one_process(facts: dict[str, Facts]) -> None:
    for part in facts["split"]:
        assert part["sizes"] == {8}
        assert part["updates"] == 80
        assert part["ppo"] == 2  # 128 steps are two rollouts of 64
        assert (part["n_steps"], part["batch_size"], part["buffer"]) == (64, 32, 32)
    assert same_parameters(facts["split"])


def test_evaluation_on_all_ranks(facts: dict[str, Facts], folder: Path) -> None:
    first, second = facts["evaluated"]
    assert first["returns"] == second["returns"]
    assert first["best"] == second["best"] == max(np.mean(first["returns"], axis=1))
    assert first["at"] == [40, 80]
    assert [len(returns) for returns in first["returns"]] == [4, 4]  # two each for three
    everything = [x for returns in first["returns"] for x in returns]
    assert len(set(everything)) == len(everything)  # every rank its own episodes
    assert np.isfinite(first["alone"])
    assert second["alone"] == -np.inf  # Stable-Baselines3's own runs on rank 0
    assert np.load(folder / "evaluations.npz")["results"].tolist() == first["returns"]
    assert (folder / "best" / "best_model.zip").exists()


def test_dqn_times_its_target_network_by_steps_of_all_ranks(facts: dict[str, Facts]) -> None:
    for part in facts["targets"]:
        # Seen at the step after.
        assert part["moved"] == [42, 82, 122, 162]
        assert part["n_envs"] == 1


def test_checkpoints_of_all_ranks(facts: dict[str, Facts]) -> None:
    for part in facts["checkpointed"]:
        assert part["same"]
        assert part["sizes"] == (30, (1_000_000, 1, 5))
        assert part["kept"] == ["steps_100", "steps_80"]
        assert part["apart"].startswith(
            "RuntimeError: ranks 0 and 1 no longer hold the same policy"
        )


def test_bf16_trains_float32_parameters(facts: dict[str, Facts]) -> None:
    for part in facts["precise"]:
        for amp in ("None", "bf16"):
            assert part[amp]["dtypes"] == {torch.float32}
            assert part[amp]["hooks"] == 0
    first, second = ([part[amp] for part in facts["precise"]] for amp in ("None", "bf16"))
    assert same_parameters(first)
    assert same_parameters(second)
    assert not same_parameters([first[0], second[0]])


def test_recalibrated_statistics_are_alike(facts: dict[str, Facts]) -> None:
    """From batches of both ranks' buffers; `learn` itself checks that ranks hold the same."""
    first = facts["recalibrated"][0]["parameters"]
    assert any("moving_mean" in name for name in first)
    assert same_parameters(facts["recalibrated"])
