"""What the spike monitor writes into d3rlpy's logs, when, and that training does not notice."""

import copy
import math
import random
import warnings
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.logging import (
    CombineAdapterFactory,
    FileAdapterFactory,
    NoopAdapterFactory,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from d3rlpy_spiking import monitor
from d3rlpy_spiking.monitor import SpikeFaultWarning, SpikeTensorboardAdapterFactory
from d3rlpy_spiking.monitor.look import excerpt, look, part
from d3rlpy_spiking.monitor.watch import TransformerWatch
from d3rlpy_spiking.operations import count_operations
from policies.distributed import share_statistics
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    LENGTH,
    build,
    make_dataset,
    train,
)
from tests.d3rlpy_spiking.planted import plant
from tests.d3rlpy_spiking.test_training import batch_of, torch_batch
from tests.kernels import NEEDS_NUMBA

ALL = pytest.mark.parametrize("name", list(CONFIGS))
NEW = {
    "dead",
    "saturated",
    "gradient_flow",
    "accumulates_per_action",
    "multiply_accumulates_per_action",
    "energy_nj_per_action",
    "faults",
}
LAYERS = ("firing_rate", "dead", "saturated", "gradient_flow")
UP = "blocks.1.mlp.up.neuron"


def states(algo: Any) -> list[Any]:
    """Weights, statistics, optimizer and generators."""
    modules = algo.impl.modules
    optim = getattr(modules, "optim", None) or modules.actor_optim
    return [
        *(x.clone() for x in algo.impl.network.state_dict().values()),
        *(x for s in optim.optim.state.values() for x in s.values() if isinstance(x, torch.Tensor)),
        torch.get_rng_state(),
        torch.tensor([hash(str(np.random.get_state())), hash(random.getstate())]),  # noqa: NPY002  # d3rlpy's
    ]


def rows(folder: Path, name: str) -> list[list[float]]:
    lines = (folder / f"{name}.csv").read_text().splitlines()
    return [[float(x) for x in line.split(",")] for line in lines]


@ALL
def test_looks_are_logged_on_their_steps_only(name: str) -> None:
    algo = build(name, monitor_every=3)
    seen = [set(algo.update(batch_of(algo, 11))) for _ in range(4)]
    assert [NEW <= metrics for metrics in seen] == [True, False, False, True]
    assert not any(NEW & metrics for metrics in seen[1:3])
    assert algo.spike_monitor.looks == 2


@NEEDS_NUMBA
@ALL
def test_training_with_and_without_the_monitor_is_equal_to_the_bit(name: str) -> None:
    outcomes = []
    for every in (1, 0):
        algo = build(name, monitor_every=every, ptbn_steps=2)
        metrics = [algo.update(batch_of(algo, 11)) for _ in range(3)]
        old = [{k: v for k, v in m.items() if k not in NEW} for m in metrics]
        outcomes.append((states(algo), old))
        assert algo.impl.network.training
        assert not any(p._forward_hooks for p in algo.impl.network.modules())
    assert outcomes[0][1] == outcomes[1][1]
    assert len(outcomes[0][0]) == len(outcomes[1][0])
    assert all(torch.equal(a, b) for a, b in zip(outcomes[0][0], outcomes[1][0], strict=True))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("settled", [False, True])
def test_a_look_moves_nothing(settled: bool, masked: bool) -> None:
    algo = build("sdt", normalization="ptbn", ptbn_steps=1, mask_statistics=masked)
    for _ in range(52 if settled else 2):
        algo.update(batch_of(algo, 4))
    algo.impl.network.backbone.dropout.eval()  # modes of their own stay too
    batch = torch_batch(algo)  # which seeds
    before, modes = states(algo), [m.training for m in algo.impl.network.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in algo.impl.network.parameters()]
    look(algo.impl.network, batch)
    count_operations(algo, batch)
    assert [m.training for m in algo.impl.network.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before, states(algo), strict=True))
    for parameter, grad in zip(algo.impl.network.parameters(), grads, strict=True):
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)


def test_young_batch_norms_use_the_batch_and_settled_ones_what_they_have_learned() -> None:
    """Evaluated by statistics that are not learned yet, a sound network looks dead."""
    algo = build("dsformer", normalization="tdbn")
    batch = torch_batch(algo)
    fresh = look(algo.impl.network, batch)
    assert max(layer.dead for layer in fresh.layers if "mix" not in layer.name) < 0.5
    for _ in range(60):
        algo.update(batch_of(algo))
    scale = algo.impl.network.backbone.transformer.blocks[0].mlp.up.current.norm.running_var
    before = look(algo.impl.network, batch).firing_rates["blocks.0.mlp.up.neuron"]
    with torch.no_grad():
        scale.mul_(1e6)
    assert look(algo.impl.network, batch).firing_rates["blocks.0.mlp.up.neuron"] < 0.1 * before


def test_progressive_norms_use_the_batch_while_theta_is_above_zero() -> None:
    algo = build("dsformer", ptbn_steps=600)
    for _ in range(52):
        algo.update(batch_of(algo, 4))
    assert 0.0 < float(algo.impl.progress.theta) < 1.0
    batch = torch_batch(algo)
    before = look(algo.impl.network, batch).firing_rates
    with torch.no_grad():
        for name, buffer in algo.impl.network.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1e6)
    assert look(algo.impl.network, batch).firing_rates == before


def test_no_rank_is_asked_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = build("dsformer")
    share_statistics(algo.impl.network)
    calls: list[str] = []

    def sums(x: torch.Tensor) -> torch.Tensor:
        calls.append("sum")
        return x

    for module in algo.impl.network.modules():
        if getattr(module, "sums", None) is not None:
            module.sums = sums
    look(algo.impl.network, torch_batch(algo))
    count_operations(algo, torch_batch(algo))
    assert not calls
    assert all(getattr(m, "sums", sums) is sums for m in algo.impl.network.modules())
    monkeypatch.setattr("d3rlpy_spiking.monitor.watch.is_main", lambda: False)
    assert not NEW & set(algo.update(batch_of(algo)))
    assert calls  # training does ask


def test_padding_is_left_out() -> None:
    algo = build("dsformer")
    batch = torch_batch(algo)
    batch.masks[:, : LENGTH // 2] = 0.0
    first = look(algo.impl.network, batch)
    steps = int(batch.masks.sum())
    assert 2 < steps <= 32 * LENGTH / 2
    assert {layer.counts.shape[0] for layer in first.layers} == {steps}
    interleaved = build("sdt")
    for layer in look(interleaved.impl.network, batch).layers:  # the last action is not read
        assert layer.counts.shape[0] == 3 * steps - 32


def test_figures_are_those_of_a_count_by_hand() -> None:
    algo = build("dsformer")
    metrics = algo.update(batch_of(algo))
    watch = algo.spike_monitor
    layers = watch.activity.layers
    silent = sum(int((layer.counts.sum(dim=0) == 0).sum()) for layer in layers)
    assert metrics["dead"] == pytest.approx(silent / sum(x.counts.shape[1] for x in layers))
    count = count_operations(algo, part(torch_batch(algo)))
    assert metrics["accumulates_per_action"] == pytest.approx(count.accumulates)
    assert metrics["energy_nj_per_action"] == pytest.approx(
        0.9e-3 * count.accumulates + 4.6e-3 * count.multiply_accumulates
    )
    waiting = watch.take_layers()
    assert waiting[f"firing_rate.{UP}"] == pytest.approx(
        float(next(x for x in layers if x.name == UP).counts.mean()) / 4
    )
    assert watch.take_layers() == {}


def test_csv_files_of_an_epoch_hold_means_over_its_looks(tmp_path: Path) -> None:
    algo = build("dsformer", monitor_every=4)
    train(
        algo,
        12,
        6,
        logger_adapter=FileAdapterFactory(str(tmp_path)),
        experiment_name="run",
        with_timestamp=False,
    )  # looks after steps 1, 5, 9
    folder = tmp_path / "run"
    for name in NEW:
        assert [row[:2] for row in rows(folder, name)] == [[1, 6], [2, 12]]
    names = [layer.name for layer in algo.spike_monitor.activity.layers]
    assert len(names) == 14
    for name in names:
        assert [row[:2] for row in rows(folder, f"firing_rate.{name}")] == [[1, 6], [2, 12]]
        assert all(math.isfinite(row[2]) for row in rows(folder, f"dead.{name}"))
    last = next(x for x in algo.spike_monitor.activity.layers if x.name == UP)
    assert rows(folder, f"firing_rate.{UP}")[1][2] == pytest.approx(last.firing_rate)
    assert not any("/" in path.name for path in folder.iterdir())


def test_an_epoch_without_a_look_has_no_row(tmp_path: Path) -> None:
    algo = build("dsformer", monitor_every=1000)
    adapter = FileAdapterFactory(str(tmp_path))
    train(algo, 4, 2, logger_adapter=adapter, experiment_name="run", with_timestamp=False)
    assert len(rows(tmp_path / "run", "loss")) == 2
    assert len(rows(tmp_path / "run", "dead")) == 1
    assert len(rows(tmp_path / "run", f"dead.{UP}")) == 1


def test_zero_switches_it_off(tmp_path: Path) -> None:
    algo = build("dsformer", monitor_every=0)
    adapter = FileAdapterFactory(str(tmp_path))
    train(algo, 2, logger_adapter=adapter, experiment_name="run", with_timestamp=False)
    assert not (tmp_path / "run" / "dead.csv").exists()
    assert (tmp_path / "run" / "firing_rate.csv").exists()
    with pytest.raises(ValueError, match=r"monitor_every must be .*at least 1, or 0 for none"):
        build("dsformer", monitor_every=-1)
    for wrong in (None, False, 0.0):
        with pytest.raises(TypeError, match=r"monitor_every must be an integer .*or 0 for none"):
            build("dsformer", monitor_every=wrong)
    with pytest.raises(ValueError, match="raster_every"):
        SpikeTensorboardAdapterFactory(raster_every=-1)


def test_tensorboard_gets_histograms_and_a_picture(tmp_path: Path) -> None:
    algo = build("sdt", monitor_every=2)
    factory = CombineAdapterFactory(
        [SpikeTensorboardAdapterFactory(str(tmp_path)), NoopAdapterFactory()]
    )
    train(algo, 4, 2, logger_adapter=factory, experiment_name="run", with_timestamp=False)
    found = EventAccumulator(str(tmp_path / "runs" / "run"), {"histograms": 0}).Reload()
    tags = found.Tags()
    assert {f"metrics/{name}" for name in NEW} <= set(tags["scalars"])
    assert f"metrics/gradient_flow.{UP}" in tags["scalars"]
    assert {f"spikes/rates/{x.name}" for x in algo.spike_monitor.activity.layers} <= set(
        tags["histograms"]
    )
    assert "spikes/raster" in tags["images"]
    assert len(found.Images("spikes/raster")) == 1  # the next after ten epochs
    assert len(found.Histograms(f"spikes/rates/{UP}")) == 2


@ALL
def test_the_picture_shows_one_context(name: str) -> None:
    algo = build(name)
    algo.update(batch_of(algo))
    rasters = algo.spike_monitor.rasters()
    tokens = 3 if "sdt" in name or name == "tacr" else 1
    assert [r.name for r in rasters] == [x.name for x in algo.spike_monitor.activity.layers]
    for raster in rasters:
        assert raster.steps == 4 * tokens
        assert -(-len(raster.spikes) // raster.steps) == LENGTH
        assert raster.spikes.any() or "mix" in raster.name


def test_the_picture_shows_the_longest_context() -> None:
    algo = build("dsformer")
    batch = torch_batch(algo)
    batch.masks[:, :-2] = 0.0
    batch.masks[5, 1:] = 1.0
    for raster in excerpt(algo.impl.network, batch):
        assert -(-len(raster.spikes) // raster.steps) == LENGTH - 1


def test_a_fault_is_warned_of_once_with_layer_and_remedy() -> None:
    algo = build("dsformer", monitor_every=1)
    where = plant(algo, "saturated", random.Random(3))
    with pytest.warns(SpikeFaultWarning, match=f"step 1: saturated_layer in {where}: .*Lower"):
        assert algo.update(batch_of(algo))["faults"] == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert algo.update(batch_of(algo))["faults"] == 1.0


def test_a_layer_that_still_learns_is_warned_of_at_the_second_look() -> None:
    algo = build("dsformer", monitor_every=1)
    where = plant(algo, "dead by gain", random.Random(1))
    assert algo.update(batch_of(algo))["faults"] == 0.0
    with pytest.warns(SpikeFaultWarning, match=f"step 2: dead_layer in {where}: .*Lower"):
        assert algo.update(batch_of(algo))["faults"] == 1.0


def test_broken_weights_are_warned_of_and_nothing_else_is_logged() -> None:
    algo = build("dsformer")
    plant(algo, "nan", random.Random(2))
    # A gradient step spreads it over all weights.
    with pytest.warns(SpikeFaultWarning, match="step 1: nan in .*earlier checkpoint"):
        metrics = algo.update(batch_of(algo))
    assert metrics["faults"] == 1.0
    assert not (NEW - {"faults"}) & set(metrics)
    assert algo.spike_monitor.take_layers() == {}
    assert algo.spike_monitor.rasters() == []


def test_a_batch_of_few_steps_raises_no_alarm_by_chance() -> None:
    algo = build("dsformer", monitor_every=1)
    plant(algo, "saturated", random.Random(3))
    assert algo.update(batch_of(algo, 4))["faults"] == 0.0


def test_two_steps_that_look_alike_raise_no_alarm() -> None:
    algo = build("dsformer", monitor_every=1, context_size=2, batch_size=1)
    data = make_dataset(discrete=False)
    for _ in range(30):  # warnings are errors
        metrics = algo.update(data.sample_trajectory_batch(1, length=2))
        assert metrics.get("faults", 0.0) == 0.0
    assert algo.spike_monitor.looks > 20


def test_a_look_that_fails_ends_looking_and_not_training(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = build("dsformer", monitor_every=1)

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("d3rlpy_spiking.monitor.watch.look", fail)
    with pytest.warns(UserWarning, match="the spike monitor is off: out of memory"):
        assert "loss" in algo.update(batch_of(algo))
    assert not NEW & set(algo.update(batch_of(algo)))
    assert algo.spike_monitor.off
    assert int(algo.impl.progress.step) == 2


def test_a_look_lets_interrupts_and_warnings_that_are_errors_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    algo = build("dsformer", monitor_every=1)
    plant(algo, "saturated", random.Random(3))
    with pytest.raises(SpikeFaultWarning):
        algo.update(batch_of(algo))

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("d3rlpy_spiking.monitor.watch.look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        algo.update(batch_of(algo))
    assert not algo.spike_monitor.off


def test_under_a_compiled_graph_rates_come_from_the_look() -> None:
    """Hooks would be baked into the graph; a look runs outside it."""
    algo = build("dsformer")
    algo.update(batch_of(algo))
    algo.impl._compiled = True
    algo.impl.network.backbone.theta_as_tensor = True
    algo.impl._gradient_norm = None

    class Compiled:
        compiled = True
        impl = algo.impl

    algo.impl.watch = TransformerWatch(Compiled(), every=1)
    metrics = algo.update(batch_of(algo))
    assert NEW <= set(metrics)
    assert metrics["firing_rate_min"] <= metrics["firing_rate"] <= metrics["firing_rate_max"]


def test_a_copy_and_a_file_look_on(tmp_path: Path) -> None:
    algo = build("dsformer", monitor_every=2)
    algo.update(batch_of(algo))
    algo.save(str(tmp_path / "algo.d3"))
    loaded = d3rlpy.load_learnable(str(tmp_path / "algo.d3"))
    assert loaded.config.monitor_every == 2
    assert not NEW & set(loaded.update(batch_of(loaded)))  # step 2
    assert NEW <= set(loaded.update(batch_of(loaded)))
    copy.deepcopy(algo.impl.network)


def test_what_is_public() -> None:
    assert set(monitor.__all__) == {
        "Finding",
        "SpikeFaultWarning",
        "SpikeMonitor",
        "SpikeTensorboardAdapterFactory",
        "examine",
    }
