"""The energy command: figures checked against arrays alone, and what it refuses."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import energy
from benchmarks.energy_published import transformer_products, width_for
from policies.actor import PopulationActor
from policies.config import PopulationActorConfig
from policies.energy import count_operations
from tests.common import POPSAN_FILE, needs_popsan, popsan_parameters
from tests.d3rlpy_spiking.common import build
from tests.policies.reference import forward
from tests.sb3_spiking.matrix import environment, make


def run(*arguments: str) -> None:
    energy.main(list(arguments))


@needs_popsan
def test_popsan_s_accumulates_counted_from_its_arrays() -> None:
    """Spikes of a plain numpy network times the neurons they reach."""
    with np.load(POPSAN_FILE) as file:
        parameters = popsan_parameters(file)
        obs = file["traj_obs"]
    wide = {name: value.double().numpy() for name, value in parameters.items()}
    trace = forward(wide, obs.astype(np.float64), steps=5)
    assert all((wide[f"mlp.linears.{k}.weight"] != 0).all() for k in range(3))
    # 170 encoder neurons reach 256, 256 reach 256, 256 reach 60.
    reach = ((trace.encoder_spikes, 256), (trace.spikes[0], 256), (trace.spikes[1], 60))
    by_hand = [float(np.sum(spikes)) * fan_out / len(obs) for spikes, fan_out in reach]
    actor = PopulationActor(17, 6, PopulationActorConfig(normalize=False))
    actor.load_state_dict(parameters)
    layers = count_operations(actor, torch.from_numpy(obs)).layers
    assert [layers[f"mlp.linears.{k}"].accumulates for k in range(3)] == by_hand
    assert sum(by_hand) == pytest.approx(190_900, rel=0.01)
    # One product for each output neuron that fired.
    fired = float((np.sum(trace.spikes[2], axis=0) > 0).sum()) / len(obs)
    assert layers["decoder"].multiply_accumulates == fired


@needs_popsan
def test_popsan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mujoco")
    out = tmp_path / "out.md"
    run("popsan", "--weights", str(POPSAN_FILE), "--steps", "20", "--output", str(out))
    text = out.read_text("utf-8")
    assert text in capsys.readouterr().out
    for words in (
        "256 observations",
        "189,600",  # as the test above, on the file's trajectory
        "71,424",  # 17 x 256 + 256 x 256 + 256 x 6
        "622,080",  # 5 x (170 x 256 + 256 x 256 + 256 x 60)
        "rate of 0.587",
        "328.6",  # 71,424 x 4.6 pJ
        "20 observations",
        "Published, not counted here",
    ):
        assert words in text, words
    assert "Not counted" not in text


def test_dsformer_at_the_paper_s_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "SHARED", tmp_path)  # no data: contexts of normal numbers
    run("dsformer", "--batch", "2")
    text = capsys.readouterr().out
    for words in (
        "Counting rule",
        "188.7 M products",  # T 4 x K 20 x 3 layers x 12 x 256^2
        "169.9 uJ if every input fired",
        "published: DSFormer 88.8 uJ, Decision Transformer 410.5 uJ",
        "| 1                    |            0.523 |",  # 88.8 / 169.9
        "| 2                    |            0.261 |",
        "36.2 M products at D 128 and 141.9 M at D 256 on its 59 tokens",
        "a mean input rate of 0.276",  # 88.8 / 410.5 / T x 4.6 / 0.9
    ):
        assert words in text, words


def test_a_model_s_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algo = build("dsformer")
    algo.save(str(tmp_path / "small.d3"))
    run("dsformer", "--model", str(tmp_path / "small.d3"), "--batch", "3")
    text = capsys.readouterr().out
    assert "small.d3; contexts of normal numbers, 3 contexts" in text
    assert "The sizes are not the paper's" in text


def test_widths_that_give_a_number_of_products() -> None:
    # Two layers' worth by hand: 59 tokens, 12 x 64^2 each, 1,770 pairs of 2 x (64 + 1).
    assert transformer_products(64, 59) == 3 * (59 * 12 * 64**2 + 1_770 * 2 * 65)
    assert width_for(transformer_products(100, 20), 20) == pytest.approx(100, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["popsan", "--weights", "missing.npz"], "there is no file 'missing.npz'"),
        (["popsan", "--steps", "0"], "no integer of at least 1"),
        (["dsformer", "--data", "missing.npz"], "there is no file 'missing.npz'"),
        (["dsformer", "--output", "missing/out.md"], "there is no folder 'missing'"),
        (["other"], "invalid choice"),
    ],
)
def test_bad_arguments(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    assert words in capsys.readouterr().err


def test_a_model_of_another_kind_or_for_other_data(tmp_path: Path) -> None:
    build("sdt").save(str(tmp_path / "sdt.d3"))
    with pytest.raises(SystemExit, match="must be a DSFormer, got SpikingDecisionTransformer"):
        run("dsformer", "--model", str(tmp_path / "sdt.d3"))
    build("dsformer").save(str(tmp_path / "small.d3"))
    np.savez(
        tmp_path / "data.npz",
        observations=np.zeros((4, 3), np.float32),
        actions=np.zeros((4, 1), np.float32),
        rewards=np.zeros(4, np.float32),
        terminals=np.array([0, 0, 0, 1], bool),
        timeouts=np.zeros(4, bool),
    )
    model, data = str(tmp_path / "small.d3"), str(tmp_path / "data.npz")
    with pytest.raises(SystemExit, match=r"the model takes \(\(5,\), 2\)"):
        run("dsformer", "--model", model, "--data", data)


ALGORITHMS = {"TD3": "Box", "SAC": "Box", "PPO": "Box", "DQN": "Discrete", "CrossQ": "Box"}


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_nothing_of_sb3_s_spiking_policies_is_missed(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = make(name, environment(name, "Box", ALGORITHMS[name]))
    obs, _ = model.policy.obs_to_tensor(model.get_env().reset())
    count = count_operations(model.policy, obs)
    assert count.uncounted == ()
    assert 0 < count.accumulates
    assert count.accumulates + count.multiply_accumulates <= count.dense
