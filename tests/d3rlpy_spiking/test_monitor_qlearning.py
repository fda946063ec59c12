"""What SpikeMonitor writes into the logs of d3rlpy's Q-learning algorithms, and what it refuses."""

from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.logging import FileAdapterFactory, NoopAdapterFactory, TensorboardAdapterFactory

from d3rlpy_spiking.monitor import SpikeFaultWarning, SpikeMonitor
from d3rlpy_spiking.monitor.samples import steps
from d3rlpy_spiking.operations import count_decision
from policies.energy import count_operations
from tests.d3rlpy_spiking import qlearning
from tests.d3rlpy_spiking.common import build, is_discrete, make_dataset, train
from tests.d3rlpy_spiking.test_monitor import rows


@pytest.mark.parametrize("name", list(qlearning.SETTINGS))
def test_q_learning_algorithms_log_all_networks(name: str, tmp_path: Path) -> None:
    d3rlpy.seed(0)
    algo = qlearning.make(name)
    data = make_dataset(is_discrete(algo))
    algo.fit(
        data,
        n_steps=4,
        n_steps_per_epoch=2,
        logger_adapter=SpikeMonitor(data, FileAdapterFactory(str(tmp_path)), every=2),
        experiment_name="run",
        with_timestamp=False,
        show_progress=False,
    )
    folder = tmp_path / "run"
    for metric in ("firing_rate", "dead", "gradient_flow", "coverage", "faults"):
        assert [row[:2] for row in rows(folder, metric)] == [[1, 2], [2, 4]]
    activity = algo.spike_monitor.activity
    trunks = len(activity.encoders)
    assert trunks >= 1
    assert len(activity.layers) == 2 * trunks
    assert len(activity.readouts) >= trunks
    assert all(layer.flow is not None and layer.flow > 0.0 for layer in activity.layers)
    for layer in activity.layers:
        assert len(rows(folder, f"firing_rate.{layer.name}")) == 2
    # Of drawn actions too: counting leaves the generator where the look had it.
    count = count_decision(algo, steps(algo, data, 256)[0])
    for metric, value in (
        ("accumulates_per_action", count.accumulates),
        ("multiply_accumulates_per_action", count.multiply_accumulates),
        ("energy_nj_per_action", count.energy_nj),
    ):
        row = rows(folder, metric)[-1]
        assert row[:2] == [2, 4]
        assert row[2] == pytest.approx(value)
    assert [len(r.spikes) for r in algo.spike_monitor.rasters()] == [25 * 3] * 3 * trunks


def test_what_bends_observations_is_charged_in_every_critic(tmp_path: Path) -> None:
    d3rlpy.seed(0)
    algo = qlearning.make("DQN", n_critics=3)
    data = make_dataset(discrete=True)
    algo.fit(
        data,
        n_steps=2,
        n_steps_per_epoch=2,
        logger_adapter=SpikeMonitor(data, FileAdapterFactory(str(tmp_path))),
        experiment_name="run",
        with_timestamp=False,
        show_progress=False,
    )
    observations, _ = steps(algo, data, 256)
    # Two products for each of 5 observed values; the rest as the core counts a critic.
    expected = sum(
        count_operations(critic, observations).multiply_accumulates + 2 * 5
        for critic in algo.impl.modules.q_funcs
    )
    logged = rows(tmp_path / "run", "multiply_accumulates_per_action")
    assert logged == [[1, 2, pytest.approx(expected)]]


def test_the_q_learning_monitor_looks_every_so_many_steps(tmp_path: Path) -> None:
    d3rlpy.seed(0)
    algo = qlearning.make("BC")
    data = make_dataset(discrete=False)
    algo.fit(
        data,
        n_steps=8,
        n_steps_per_epoch=2,
        logger_adapter=SpikeMonitor(data, FileAdapterFactory(str(tmp_path)), every=4),
        experiment_name="run",
        with_timestamp=False,
        show_progress=False,
    )
    assert [row[:2] for row in rows(tmp_path / "run", "faults")] == [[1, 2], [3, 6]]


@pytest.mark.parametrize("name", ["SAC", "BCQ"])
def test_the_q_learning_monitor_changes_nothing(name: str) -> None:
    weights: list[list[torch.Tensor]] = []
    for watched in (True, False):
        d3rlpy.seed(0)
        algo = qlearning.make(name)
        data = make_dataset(discrete=False)
        inner = NoopAdapterFactory()
        algo.fit(
            data,
            n_steps=6,
            n_steps_per_epoch=2,
            logger_adapter=SpikeMonitor(data, inner, every=1) if watched else inner,
            show_progress=False,
        )
        weights.append([p for m in qlearning.networks(algo).values() for p in m.parameters()])
        weights[-1].append(torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_look_that_fails_ends_looking_and_not_training(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = qlearning.make("BC")
    data = make_dataset(discrete=False)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("d3rlpy_spiking.monitor.qlearning.look", fail)
    factory = SpikeMonitor(data, NoopAdapterFactory(), every=1)
    with pytest.warns(UserWarning, match="the spike monitor is off: out of memory") as seen:
        algo.fit(data, 4, 2, logger_adapter=factory, show_progress=False)
    assert sum("is off" in str(warning.message) for warning in seen) == 1
    assert algo.grad_step == 4


def test_the_q_learning_monitor_names_an_encoder_range_that_misses_the_data() -> None:
    d3rlpy.seed(0)
    algo = qlearning.make("TD3PlusBC")
    data = make_dataset(discrete=False)
    for episode in data.episodes:
        np.multiply(episode.observations, 100.0, out=episode.observations)
    with pytest.warns(
        SpikeFaultWarning, match="encoder_range in .*StandardObservationScale"
    ) as seen:
        algo.fit(
            data,
            n_steps=2,
            n_steps_per_epoch=2,
            logger_adapter=SpikeMonitor(data, NoopAdapterFactory()),
            show_progress=False,
        )
    assert any("in policy._encoder.body.encoder" in str(warning.message) for warning in seen)
    assert algo.spike_monitor.activity.encoders[0].coverage < 0.5


def test_a_wrong_dataset_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"dataset must be the ReplayBuffer .*NoneType"):
        SpikeMonitor(None)
    d3rlpy.seed(0)
    algo = qlearning.make("BC")
    data = make_dataset(discrete=False)
    other = SpikeMonitor(make_dataset(discrete=True), FileAdapterFactory(str(tmp_path)))
    algo.build_with_dataset(data)
    before = [p.clone() for m in qlearning.networks(algo).values() for p in m.parameters()]
    with pytest.raises(ValueError, match="the dataset has 3 dimensions of actions"):
        algo.fit(data, 2, 2, logger_adapter=other, show_progress=False)
    after = [p for m in qlearning.networks(algo).values() for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not list(tmp_path.iterdir())
    # An online buffer is empty then.
    empty = d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.FIFOBuffer(100), episodes=data.episodes[:1])
    empty.buffer.episodes.clear()
    assert SpikeMonitor(empty, NoopAdapterFactory()).create(algo, "run", 2) is not None


def test_the_q_learning_monitor_refuses_and_lets_pass(tmp_path: Path) -> None:
    data = make_dataset(discrete=False)
    with pytest.raises(ValueError, match="monitor_every"):
        train(build("dsformer"), 2, logger_adapter=SpikeMonitor(data, NoopAdapterFactory()))
    with pytest.raises(ValueError, match="samples must be at least 64"):
        SpikeMonitor(data, samples=8)
    dense = d3rlpy.algos.BCConfig(batch_size=8).create()
    factory = SpikeMonitor(data, TensorboardAdapterFactory(str(tmp_path)))
    dense.fit(data, n_steps=2, n_steps_per_epoch=2, logger_adapter=factory, show_progress=False)
    assert not hasattr(dense, "spike_monitor")
