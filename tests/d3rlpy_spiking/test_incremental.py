"""The cached wrapper against the plain network on the same steps, for every algorithm."""

import dataclasses
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.algos import GreedyTransformerActionSampler
from d3rlpy.constants import PositionEncodingType
from d3rlpy.preprocessing import MinMaxActionScaler, MultiplyRewardScaler, StandardObservationScaler
from numpy.typing import NDArray
from torch import Tensor

from tests.d3rlpy_spiking.common import CONFIGS, LENGTH, build, is_discrete, make_context, train
from tests.d3rlpy_spiking.test_training import batch_of
from tests.kernels import NEEDS_NUMBA, NUMBA

ALL = pytest.mark.parametrize("name", list(CONFIGS))
KERNELS = pytest.mark.parametrize("kernel", ["torch", NUMBA])
TARGET = 3.0
SIMPLE = {"position_encoding_type": PositionEncodingType.SIMPLE}


def make(name: str, **changes: Any) -> Any:
    if name != "dsformer":
        changes |= SIMPLE
    # No number that averages of spikes by softmax often are, up to their last bit.
    changes.setdefault("v_threshold", 0.47)
    if not is_discrete(CONFIGS[name]().create()):
        changes["action_scaler"] = MinMaxActionScaler(
            minimum=np.full(2, -2.0, np.float32), maximum=np.full(2, 3.0, np.float32)
        )
    algo = build(
        name,
        reward_scaler=MultiplyRewardScaler(0.1),
        observation_scaler=StandardObservationScaler(
            mean=np.full(5, 0.1, np.float32), std=np.full(5, 2.0, np.float32)
        ),
        **changes,
    )
    train_steps(algo)
    return algo


def train_steps(algo: Any) -> None:
    """A few updates move running statistics; then neurons fire more, so that attention acts."""
    for _ in range(5):
        algo.update(batch_of(algo))
    for name, parameter in algo.impl.network.named_parameters():
        if ".norm." in name and name.endswith("bias"):
            parameter.data.add_(0.4)
        if name.endswith("mix.weight"):
            parameter.data.normal_(1.0, 0.3)


class Recorded:
    """An action sampler that keeps what the network said."""

    def __init__(self, discrete: bool) -> None:
        self.values: list[NDArray[Any]] = []
        self.discrete = discrete

    def __call__(self, values: NDArray[Any]) -> Any:
        self.values.append(values)
        return GreedyTransformerActionSampler()(values) if self.discrete else values


def plain(algo: Any, steps: list[tuple[Any, ...]]) -> Tensor:
    """The network on steps without padding: what it says at the last one, scaled back."""
    observations, actions, returns, timesteps = (
        torch.as_tensor(np.asarray(x)) for x in zip(*steps, strict=True)
    )
    config = algo.config
    if config.action_scaler is not None:
        actions = config.action_scaler.transform(actions.float())
    network = algo.impl.network.eval()
    with torch.no_grad():
        out = network(
            config.observation_scaler.transform(observations.float())[None],
            actions.reshape(1, len(steps), -1),
            config.reward_scaler.transform(returns.float()).reshape(1, -1, 1),
            timesteps[None],
            torch.zeros(1, len(steps)),
        )
    values: Tensor = (out[1] if isinstance(out, tuple) else out)[0, -1]
    if config.action_scaler is not None:
        values = config.action_scaler.reverse_transform(values)
    return values


@ALL
@KERNELS
def test_equals_the_network_on_the_steps_in_the_context(name: str, kernel: Any) -> None:
    algo = make(name)
    sampler = Recorded(is_discrete(algo))
    keep = 2
    wrapper = algo.as_incremental_wrapper(TARGET, sampler, keep=keep, kernel=kernel)
    assert wrapper.algo is algo
    rng = np.random.default_rng(0)
    steps: list[tuple[Any, ...]] = []
    rest = TARGET
    for timestep in range(1, 3 * LENGTH):
        x, reward = rng.normal(size=5).astype(np.float32), float(rng.normal())
        if len(steps) == LENGTH:
            steps = steps[-keep:]
        action = wrapper.predict(x, reward)
        rest -= reward
        pad = 0 if is_discrete(algo) else np.zeros(2, np.float32)
        steps.append((x, pad, rest, timestep))
        expected = plain(algo, steps)
        np.testing.assert_allclose(sampler.values[-1], expected, atol=1e-5)
        steps[-1] = (x, action, rest, timestep)
    assert np.std([v[0] for v in sampler.values]) > 1e-4


@KERNELS
def test_reset_begins_anew(kernel: Any) -> None:
    algo = make("dsformer")
    wrapper = algo.as_incremental_wrapper(TARGET, kernel=kernel)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(2 * LENGTH, 5)).astype(np.float32)
    first = [wrapper.predict(x, 0.5) for x in observations]
    wrapper.reset()
    np.testing.assert_array_equal(first, [wrapper.predict(x, 0.5) for x in observations])


def test_first_step_is_d3rlpy_s_for_attention_without_positions() -> None:
    algo = make("dsformer", attention="tssa")
    ours, theirs = algo.as_incremental_wrapper(TARGET), algo.as_stateful_wrapper(TARGET)
    rng = np.random.default_rng(0)
    for _ in range(LENGTH):
        x = rng.normal(size=5).astype(np.float32)
        np.testing.assert_allclose(ours.predict(x, 0.5), theirs.predict(x, 0.5), atol=1e-5)


def test_folded_and_a_context_of_one_step() -> None:
    for algo in (make("dsformer").fold(), build("sdt", context_size=1, **SIMPLE)):
        wrapper = algo.as_incremental_wrapper(TARGET)
        for _ in range(3):
            action = wrapper.predict(np.ones(5, np.float32), 0.0)
        assert np.isfinite(action).all()


def test_what_it_refuses() -> None:
    algo = make("dsformer")
    with pytest.raises(ValueError, match="keep must be below the context of 6 steps, got 6"):
        algo.as_incremental_wrapper(TARGET, keep=6)
    with pytest.raises(ValueError, match="keep must be 1 where the context is one step, got 5"):
        build("dsformer", context_size=1).as_incremental_wrapper(TARGET, keep=5)
    with pytest.raises(ValueError, match="kernel must be one of"):
        algo.as_incremental_wrapper(TARGET, kernel="cuda")
    wrapper = algo.as_incremental_wrapper(TARGET)
    with pytest.raises(ValueError, match="must be finite"):
        wrapper.predict(np.full(5, np.nan, np.float32), 0.0)
    for shape in ((4,), (1, 5)):
        with pytest.raises(ValueError, match=r"observation must have the shape \(5,\)"):
            wrapper.predict(np.zeros(shape, np.float32), 0.0)
    with pytest.raises(ValueError, match=r"must be finite.*target return"):
        algo.as_incremental_wrapper(float("nan")).predict(np.zeros(5, np.float32), 0.0)
    wrapper.predict(np.zeros(5, np.float32), 0.0)
    with pytest.raises(ValueError, match=r"'global' cannot be cached.*SIMPLE"):
        build("strl").as_incremental_wrapper(TARGET)
    with pytest.raises(ValueError, match="nothing to run yet"):
        CONFIGS["dsformer"]().create().as_incremental_wrapper(TARGET)


@NEEDS_NUMBA
@pytest.mark.parametrize(
    ("saved", "loaded"),
    [(("torch", "float32"), ("numba", "bf16")), (("numba", "bf16"), ("fused", "float32"))],
)
def test_kernel_and_matmul_change_after_loading(saved: Any, loaded: Any, tmp_path: Any) -> None:
    algo = make("dsformer", kernel=saved[0], matmul=saved[1])
    algo.save(str(tmp_path / "algo.d3"))
    algo.save_model(str(tmp_path / "weights.pt"))
    again = d3rlpy.load_learnable(str(tmp_path / "algo.d3"))
    assert (again.config.kernel, again.config.matmul) == saved
    config = dataclasses.replace(algo.config, kernel=loaded[0], matmul=loaded[1])
    other = config.create()
    other.create_impl((5,), 2)
    other.load_model(str(tmp_path / "weights.pt"))
    for (name, a), b in zip(
        algo.impl.network.state_dict().items(),
        other.impl.network.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b), name
    train(other, 2)
    assert np.isfinite(other.predict(make_context(other))).all()


@KERNELS
@pytest.mark.parametrize("part", ["head", "encoder"])
def test_broken_weights_are_told(part: str, kernel: Any) -> None:
    algo = make("dsformer")
    for parameter in getattr(algo.impl.network, part).parameters():
        parameter.data.fill_(float("nan"))
    wrapper = algo.as_incremental_wrapper(TARGET, kernel=kernel)
    with pytest.raises(ValueError, match="its weights are broken"):
        wrapper.predict(np.zeros(5, np.float32), 0.0)


@KERNELS
def test_later_training_and_the_caller_change_nothing(kernel: Any) -> None:
    """The network is copied, and so is the action that comes back."""
    algo = make("dsformer")
    ours, other = (algo.as_incremental_wrapper(TARGET, kernel=kernel) for _ in range(2))
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(2 * LENGTH, 5)).astype(np.float32)
    expected = [np.array(other.predict(x, 0.5)) for x in observations]
    algo.impl.network.head.weight.data.mul_(-3.0)
    train_steps(algo)
    for x, action in zip(observations, expected, strict=True):
        found = ours.predict(x, 0.5)
        np.testing.assert_array_equal(found, action)
        found[:] = 99.0


@pytest.mark.parametrize("name", ["sdt", "discrete_sdt"])
def test_episodes_longer_than_the_table_of_timesteps(name: str) -> None:
    """Its last row goes on, as in d3rlpy."""
    algo = build(name, max_timestep=LENGTH, **SIMPLE)
    sampler = Recorded(is_discrete(algo))
    wrapper = algo.as_incremental_wrapper(TARGET, sampler)
    for _ in range(3 * LENGTH):
        wrapper.predict(np.ones(5, np.float32), 0.0)
    assert np.isfinite(sampler.values).all()


def test_bad_kernel_and_matmul() -> None:
    with pytest.raises(ValueError, match="kernel must be one of"):
        build("dsformer", kernel="cuda")
    with pytest.raises(ValueError, match="matmul='exact' is not available for transformers"):
        build("dsformer", matmul="exact")
