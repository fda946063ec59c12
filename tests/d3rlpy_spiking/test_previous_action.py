"""Tokens without the action before, and neurons whose spikes count their input."""

from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch

from policies.config import LIFConfig
from policies.neurons import LIF
from tests.d3rlpy_spiking.common import LENGTH, build, make_config
from tests.d3rlpy_spiking.test_incremental import TARGET, make, plain
from tests.d3rlpy_spiking.test_masks import decide, inputs
from tests.d3rlpy_spiking.test_training import batch_of
from tests.kernels import NEEDS_NUMBA

COUNTING = {"v_decay": 1.0, "reset_mode": "soft", "detach_reset": False}
JOINT = pytest.mark.parametrize("name", ["dsformer", "strl", "discrete_dsformer", "discrete_strl"])


@JOINT
@pytest.mark.parametrize("with_it", [True, False])
def test_the_action_before_reaches_a_token_or_none(name: str, with_it: bool) -> None:
    algo = build(name, previous_action=with_it)
    ours, other = inputs(algo), inputs(algo, seed=1)
    before = decide(algo, ours)
    after = decide(algo, [ours[0], other[1], *ours[2:]])
    assert torch.equal(before, after) is not with_it
    named = any(key.startswith("action_embed") for key in algo.impl.network.state_dict())
    assert named is with_it


@JOINT
def test_without_it_training_steps_and_files_work(name: str, tmp_path: Path) -> None:
    algo = build(name, previous_action=False, **COUNTING)
    before = [p.detach().clone() for p in algo.impl.network.parameters()]
    losses = [algo.update(batch_of(algo))["loss"] for _ in range(3)]
    assert np.isfinite(losses).all()
    changed = [
        not torch.equal(a, b) for a, b in zip(before, algo.impl.network.parameters(), strict=True)
    ]
    assert sum(changed) > len(changed) / 2
    algo.save(tmp_path / "model.d3")
    loaded = d3rlpy.load_learnable(str(tmp_path / "model.d3"))
    assert loaded.config == algo.config
    assert torch.equal(decide(algo, inputs(algo)), decide(loaded, inputs(algo)))


def test_one_step_at_a_time_is_the_same() -> None:
    algo = make("dsformer", previous_action=False, **COUNTING)
    wrapper = algo.as_incremental_wrapper(TARGET)
    rng = np.random.default_rng(0)
    steps: list[tuple[Any, ...]] = []
    rest = TARGET
    for timestep in range(1, LENGTH + 1):
        x, reward = rng.normal(size=5).astype(np.float32), float(rng.normal())
        action = wrapper.predict(x, reward)
        rest -= reward
        steps.append((x, np.zeros(2, np.float32), rest, timestep))
        np.testing.assert_allclose(action, plain(algo, steps), atol=1e-5)


@pytest.mark.parametrize("name", ["sdt", "dsformer", "discrete_strl"])
def test_neurons_have_the_fields(name: str) -> None:
    neurons = [m for m in build(name, **COUNTING).impl.network.modules() if isinstance(m, LIF)]
    assert neurons
    for neuron in neurons:
        config = neuron.config
        assert (config.v_decay, config.reset_mode, config.detach_reset) == (1.0, "soft", False)
    first = next(m for m in build(name).impl.network.modules() if isinstance(m, LIF)).config
    assert first == LIFConfig(v_decay=0.25, detach_reset=True)


def test_a_spike_count_is_the_input_over_the_threshold() -> None:
    """Four steps of 0.3, threshold 0.5: membrane 0.3 0.6 0.4 0.7, so spikes at steps 2 and 4."""
    counting = LIF(LIFConfig(**COUNTING))  # type: ignore[arg-type]  # a dict of mixed values
    spikes = counting(torch.full((4, 1, 1), 0.3))[0].flatten()
    assert spikes.tolist() == [0.0, 1.0, 0.0, 1.0]
    # DSFormer's neuron never gets there: 0.3 * (1 + 1/4 + 1/16 + ...) = 0.4.
    assert not LIF(LIFConfig(v_decay=0.25))(torch.full((4, 1, 1), 0.3))[0].any()


@NEEDS_NUMBA
@pytest.mark.parametrize("normalization", ["ptbn", "tdln"])
def test_compiled_loops_learn_the_same(normalization: str) -> None:
    grown: list[list[Any]] = []
    for kernel in ("torch", "fused"):
        algo = build("dsformer", kernel=kernel, normalization=normalization, **COUNTING)
        algo.impl.network.train()
        algo.update(batch_of(algo))
        grown.append([p.grad for p in algo.impl.network.parameters()])
    for theirs, ours in zip(*grown, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"previous_action": 1}, "previous_action must be True or False, got 1"),
        ({"detach_reset": None}, "detach_reset must be True or False, got None"),
        ({"reset_mode": "none"}, "reset_mode must be one of"),
    ],
    ids=str,
)
def test_bad_fields(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_config("dsformer", **changes)
