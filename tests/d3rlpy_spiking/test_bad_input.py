"""What cannot work is named before training starts, and changes nothing."""

from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.dataset import MDPDataset
from d3rlpy.models import VectorEncoderFactory

import d3rlpy_spiking as spiking
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    LENGTH,
    build,
    encoder,
    make_config,
    make_context,
    make_dataset,
    train,
)

ALL = pytest.mark.parametrize("name", list(CONFIGS))


@ALL
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "flash"}, r"attention must be one of .*'pssa'.*got 'flash'"),
        ({"normalization": "bn"}, r"normalization must be one of"),
        ({"spike_steps": 0}, r"spike_steps must be at least 1"),
        ({"spike_steps": 2.5}, r"spike_steps must be an integer"),
        ({"window_size": 0}, r"window_size must be at least 1"),
        ({"context_size": 0}, r"context_size must be at least 1"),
        ({"ptbn_steps": 0}, r"ptbn_steps must be at least 1"),
        ({"num_layers": 0}, r"num_layers must be at least 1"),
        ({"num_heads": 0}, r"num_heads must be at least 1"),
        ({"mlp_ratio": 0}, r"mlp_ratio must be at least 1"),
        ({"v_threshold": 0.0}, r"v_threshold must be in \(0, inf\]"),
        ({"v_decay": 1.5}, r"v_decay must be in \[0, 1\]"),
        ({"surrogate": "step"}, r"surrogate must be one of"),
        ({"branch_gain": float("nan")}, r"branch_gain must be in"),
        ({"attn_dropout": 1.5}, r"attn_dropout must be in \[0, 1\]"),
        ({"resid_dropout": -0.1}, r"resid_dropout must be in \[0, 1\]"),
        ({"embed_dropout": "a"}, r"embed_dropout must be a number"),
        ({"learning_rate": 0.0}, r"learning_rate must be in \(0, inf\]"),
        ({"mask_statistics": 1}, r"mask_statistics must be True or False"),
        ({"advanced_norm": "yes"}, r"advanced_norm must be True or False"),
    ],
    ids=str,
)
def test_fields_out_of_range(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_config(name, **changes)


def test_unknown_field() -> None:
    with pytest.raises(TypeError, match="spike_step"):
        spiking.DSFormerConfig(spike_step=4)


@pytest.mark.parametrize("name", ["sdt", "strl", "tacr", "discrete_sdt", "discrete_strl"])
def test_context_longer_than_the_position_table(name: str) -> None:
    with pytest.raises(ValueError, match=r"context_size must be at most max_timestep.*raise"):
        make_config(name, context_size=30, max_timestep=20)


def test_dsformer_has_no_position_table() -> None:
    assert make_config("dsformer", context_size=30, max_timestep=20).context_size == 30
    with pytest.raises(ValueError, match="context_size must be at most max_timestep"):
        make_config("dsformer", context_size=30, max_timestep=20, timestep_embedding=True)


@ALL
def test_heads_that_do_not_divide_the_width(name: str) -> None:
    algo = make_config(name, num_heads=3).create()
    with pytest.raises(ValueError, match=r"num_heads must divide the width, got 3 heads for 16"):
        algo.create_impl((5,), 3)
    assert algo.impl is None


def test_activation_without_effect_warns() -> None:
    with pytest.warns(UserWarning, match="activation_type='gelu' has no effect"):
        make_config("sdt", activation_type="gelu")


def dataset_with(name: str, episode: int, step: int, value: float) -> MDPDataset:
    data = make_dataset(discrete=False)
    getattr(data.episodes[episode], name)[step] = value
    return data


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("observations", float("nan"), r"observations.*episode 2.*step 3"),
        ("rewards", float("inf"), r"rewards.*episode 2.*step 3"),
        ("actions", float("nan"), r"actions.*episode 2.*step 3"),
        ("actions", 1.5, r"actions.*\[-1, 1\].*episode 2.*step 3"),
    ],
)
def test_broken_dataset(field: str, value: float, message: str) -> None:
    algo = make_config("dsformer").create()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        algo.fit(dataset_with(field, 2, 3, value), n_steps=5, n_steps_per_epoch=5)
    assert algo.impl is None


def test_fewer_steps_than_an_epoch() -> None:
    algo = make_config("dsformer").create()
    with pytest.raises(ValueError, match=r"n_steps \(50\) must be at least n_steps_per_epoch"):
        algo.fit(make_dataset(False), n_steps=50)
    assert algo.impl is None


def test_wrong_kind_of_actions() -> None:
    with pytest.raises(ValueError, match="needs continuous actions"):
        make_config("sdt").create().fit(make_dataset(True), n_steps=5, n_steps_per_epoch=5)
    with pytest.raises(ValueError, match="needs discrete actions"):
        make_config("discrete_sdt").create().fit(
            make_dataset(False), n_steps=5, n_steps_per_epoch=5
        )


def test_episodes_of_one_step() -> None:
    observations = np.zeros((6, 5), np.float32)
    actions = np.full((6, 2), 0.5, np.float32)
    ends = np.ones(6, np.float32)
    timeouts = MDPDataset(observations, actions, ends, np.zeros(6), ends)
    with pytest.raises(ValueError, match="dataset is empty"):
        make_config("dsformer").create().fit(timeouts, n_steps=5, n_steps_per_epoch=5)
    # Those that end in a terminal state hold one decision each, and train.
    terminals = MDPDataset(observations, actions, ends, ends)
    algo = build("dsformer")
    algo.fit(
        terminals,
        n_steps=2,
        n_steps_per_epoch=2,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    assert int(algo.impl.progress.step) == 2


def test_episode_longer_than_the_position_table() -> None:
    algo = make_config("sdt", max_timestep=20).create()
    with pytest.raises(ValueError, match="max_timestep must be at least the longest episode, 25"):
        train(algo, 5)
    assert algo.impl is None


def test_broken_observation_and_broken_weights() -> None:
    algo = build("sdt")
    inpt = make_context(algo)
    inpt.observations[2, 1] = float("nan")
    with pytest.raises(ValueError, match="observations must be finite"):
        algo.predict(inpt)
    good = make_context(algo)
    algo.predict(good)
    with torch.no_grad():
        for path in ("query.current.linear", "mix_neuron", "out.linear"):
            fresh = build("sdt")
            module = fresh.impl.network.backbone.transformer.blocks[0].attention
            for part in path.split("."):
                module = getattr(module, part)
            if not hasattr(module, "weight"):
                continue
            module.weight[0, 0] = float("nan")
            with pytest.raises(ValueError, match="weights are broken"):
                fresh.predict(good)


@ALL
def test_nothing_built_yet(name: str, tmp_path: Any) -> None:
    algo = make_config(name).create()
    with pytest.raises(ValueError, match="nothing to save yet"):
        algo.save(str(tmp_path / "a.d3"))
    with pytest.raises(ValueError, match="nothing to fold yet"):
        algo.fold()
    with pytest.raises(ValueError, match="nothing to export yet"):
        algo.save_policy(str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match=r"must end in '\.pt'"):
        algo.save_policy(str(tmp_path / "a.zip"))
    assert list(tmp_path.iterdir()) == []


def test_context_longer_than_built_for() -> None:
    algo = build("dsformer")
    with pytest.raises(ValueError, match=r"x has 9 tokens.*context of 6"):
        algo.impl.network(
            torch.zeros(1, 9, 5),
            torch.zeros(1, 9, 2),
            torch.zeros(1, 9, 1),
            torch.zeros(1, 9).long(),
            torch.zeros(1, 9),
        )


def test_schedule() -> None:
    with pytest.raises(ValueError, match="total_steps must be more than warmup_steps"):
        spiking.WarmupCosineFactory(warmup_steps=100, total_steps=100)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = spiking.WarmupCosineFactory(warmup_steps=4, total_steps=12).create(optimizer)
    rates = []
    for _ in range(14):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.5)
    assert rates[12:] == [0.0, 0.0]


def test_width_comes_from_the_encoder() -> None:
    algo = build("dsformer", encoder_factory=VectorEncoderFactory([24]), num_heads=4)
    assert algo.impl.network.backbone.transformer.config.width == 24
    assert encoder().create((LENGTH,)) is not None
