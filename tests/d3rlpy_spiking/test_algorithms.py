"""d3rlpy's own conformance list for transformer algorithms, over every spiking one."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import onnxruntime
import pytest
import torch
from d3rlpy.algos import GreedyTransformerActionSampler, TransformerInput
from d3rlpy.dataset import PartialTrajectory, TrajectoryMiniBatch
from d3rlpy.logging import CombineAdapterFactory, FileAdapterFactory, TensorboardAdapterFactory
from d3rlpy.optimizers import AdamFactory, AdamWFactory
from d3rlpy.preprocessing import (
    MinMaxActionScaler,
    MinMaxObservationScaler,
    MultiplyRewardScaler,
)

import d3rlpy_spiking as spiking
from tests.common import run_python
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    LENGTH,
    build,
    is_discrete,
    make_config,
    make_context,
    make_dataset,
    train,
)

SHAPES: dict[str, Any] = {"vector": (7,), "image": (2, 8, 8), "tuple": ((3,), (4,))}


def flat_size(shape: Any) -> int:
    return sum(map(flat_size, shape)) if isinstance(shape[0], tuple) else int(np.prod(shape))


@dataclasses.dataclass()
class SumEncoderFactory(d3rlpy.models.EncoderFactory):
    """Any observation, flattened and joined, through one linear layer."""

    width: int = 16

    def create(self, observation_shape: Any) -> torch.nn.Module:
        shapes = (
            observation_shape if isinstance(observation_shape[0], tuple) else [observation_shape]
        )
        return SumEncoder(sum(int(np.prod(shape)) for shape in shapes), self.width)

    def create_with_action(
        self, observation_shape: Any, action_size: int, discrete_action: bool = False
    ) -> torch.nn.Module:
        shapes = (
            observation_shape if isinstance(observation_shape[0], tuple) else [observation_shape]
        )
        return SumEncoder(sum(int(np.prod(s)) for s in shapes) + action_size, self.width)

    @staticmethod
    def get_type() -> str:
        return "test_sum"


class SumEncoder(torch.nn.Module):
    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(size, width)

    def forward(self, x: Any, action: Any = None) -> torch.Tensor:
        parts = [x] if isinstance(x, torch.Tensor) else list(x)
        parts = [part.flatten(1) for part in parts] + ([] if action is None else [action])
        out: torch.Tensor = self.linear(torch.cat(parts, dim=1))
        return out


d3rlpy.models.register_encoder_factory(SumEncoderFactory)


def scalers(name: str, shape: Any) -> dict[str, Any]:
    """Scalers as a user with data in other ranges has them."""
    out: dict[str, Any] = {"reward_scaler": MultiplyRewardScaler(0.1)}
    if not isinstance(shape[0], tuple):
        size = np.ones(shape, np.float32)
        out["observation_scaler"] = MinMaxObservationScaler(minimum=-size, maximum=2 * size)
    if name in ("sdt", "dsformer", "strl", "tacr"):
        out["action_scaler"] = MinMaxActionScaler(
            minimum=np.full(2, -2.0, np.float32), maximum=np.full(2, 3.0, np.float32)
        )
    return out


def make(name: str, shape: str, scaled: bool) -> Any:
    changes = scalers(name, SHAPES[shape]) if scaled else {}
    if name == "tacr":
        changes["critic_encoder_factory"] = SumEncoderFactory()
    return build(name, SHAPES[shape], encoder_factory=SumEncoderFactory(), num_layers=1, **changes)


def context(algo: Any, shape: Any, seed: int = 0) -> TransformerInput:
    rng = np.random.default_rng(seed)
    base = make_context(algo, seed=seed)
    observations: Any = (
        [rng.random((LENGTH, *s), dtype=np.float32) for s in shape]
        if isinstance(shape[0], tuple)
        else rng.random((LENGTH, *shape), dtype=np.float32)
    )
    return dataclasses.replace(base, observations=observations)


ALL = pytest.mark.parametrize("name", list(CONFIGS))
CASES = [("vector", True), ("image", False), ("tuple", False)]
MATRIX = [(name, shape, scaled) for name in CONFIGS for shape, scaled in CASES]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # d3rlpy's format
@pytest.mark.parametrize(("name", "shape", "scaled"), MATRIX)
def test_export_equals_predict(name: str, shape: str, scaled: bool, tmp_path: Path) -> None:
    algo = make(name, shape, scaled)
    inpt = context(algo, SHAPES[shape])
    observations = inpt.observations if isinstance(inpt.observations, list) else [inpt.observations]
    inputs = [*observations, np.asarray(inpt.actions, np.float32), inpt.returns_to_go]
    expected = algo.predict(inpt)
    assert expected.shape == (3 if is_discrete(algo) else 2,)
    expected = expected.argmax() if is_discrete(algo) else expected

    algo.save_policy(str(tmp_path / "policy.pt"))
    policy = torch.jit.load(str(tmp_path / "policy.pt"))
    action = policy(*(torch.as_tensor(x) for x in inputs), torch.as_tensor(inpt.timesteps))
    np.testing.assert_allclose(action.numpy(), expected, atol=1e-5)

    algo.save_policy(str(tmp_path / "policy.onnx"))
    session = onnxruntime.InferenceSession(
        str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    assert names[-3:] == ["action", "return_to_go", "timestep"]
    feed = dict(zip(names, [*inputs, inpt.timesteps], strict=True))
    np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-5)


@ALL
def test_update_without_any_valid_token(name: str) -> None:
    algo = build(name)
    before = algo.grad_step
    length = LENGTH
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 3, (length, 1)) if is_discrete(algo) else rng.random((length, 2))
    trajectory = PartialTrajectory(
        observations=rng.random((length, 5), dtype=np.float32),
        actions=actions if is_discrete(algo) else actions.astype(np.float32),
        rewards=rng.random((length, 1), dtype=np.float32),
        returns_to_go=rng.random((length, 1), dtype=np.float32),
        terminals=np.zeros((length, 1), np.float32),
        timesteps=np.arange(length),
        masks=np.zeros(length, np.float32),
        length=length,
    )
    for _ in range(3):
        metrics = algo.update(TrajectoryMiniBatch.from_partial_trajectories([trajectory] * 8))
    assert algo.grad_step == before + 3
    assert all(np.isfinite(value) for value in metrics.values())
    algo.set_grad_step(0)
    assert algo.grad_step == 0


@ALL
def test_stateful_wrapper(name: str) -> None:
    algo = build(name)
    sampler = GreedyTransformerActionSampler() if is_discrete(algo) else None
    wrapper = algo.as_stateful_wrapper(10.0, sampler)
    rng = np.random.default_rng(0)
    observations = [3.0 * rng.normal(size=5).astype(np.float32) for _ in range(3 * LENGTH)]
    actions = [wrapper.predict(x, 0.5) for x in observations]
    if not is_discrete(algo):
        # An untrained network already answers to what it sees.
        assert np.all(actions[0] != actions[1])
        assert np.all(np.abs(actions) <= 1.0)
    wrapper.reset()
    again = [wrapper.predict(x, 0.5) for x in observations]
    np.testing.assert_array_equal(actions, again)


@ALL
def test_from_json_builds_the_same_config(name: str, tmp_path: Path) -> None:
    algo = build(name, attention="tssa", normalization="tdbn", spike_steps=3, v_threshold=0.7)
    train(algo, 2, logger_adapter=FileAdapterFactory(str(tmp_path)))
    (path,) = tmp_path.glob("*/params.json")
    params = json.loads(path.read_text())
    assert params["config"]["params"]["v_threshold"] == 0.7
    assert params["config"]["type"] == algo.config.get_type()
    again = type(algo).from_json(str(path))
    assert again.config == algo.config
    assert type(again) is type(algo)


def test_load_learnable_needs_no_import_of_ours(tmp_path: Path) -> None:
    predictions: dict[str, list[float]] = {}
    for name in CONFIGS:
        algo = build(name)
        train(algo, 4)
        algo.save(str(tmp_path / f"{name}.d3"))
        predictions[name] = algo.predict(make_context(algo)).tolist()
        state, again = io.BytesIO(), io.BytesIO()
        algo.impl.save_model(state)
        d3rlpy.load_learnable(str(tmp_path / f"{name}.d3")).impl.save_model(again)
        assert state.getvalue() == again.getvalue()
    code = f"""
import json, sys
import numpy as np
import d3rlpy
from pathlib import Path
from d3rlpy.algos import TransformerInput

assert "d3rlpy_spiking" not in sys.modules
out = {{}}
for path in sorted(Path({str(tmp_path)!r}).glob("*.d3")):
    algo = d3rlpy.load_learnable(str(path))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, ({LENGTH}, 2)).astype(np.float32)
    if algo.get_action_type().name == "DISCRETE":
        actions = rng.integers(0, 3, ({LENGTH}, 1))
    inpt = TransformerInput(
        observations=rng.normal(size=({LENGTH}, 5)).astype(np.float32), actions=actions,
        rewards=np.zeros(({LENGTH}, 1), np.float32),
        returns_to_go=rng.normal(size=({LENGTH}, 1)).astype(np.float32),
        timesteps=np.arange(1, {LENGTH} + 1))
    out[path.stem] = algo.predict(inpt).tolist()
Path({str(tmp_path / "out.json")!r}).write_text(json.dumps(out))
"""
    run_python(code, env={"OMP_NUM_THREADS": "1"} | dict(os.environ))
    assert json.loads((tmp_path / "out.json").read_text()) == predictions


@ALL
def test_training_learns(name: str) -> None:
    algo = build(name, learning_rate=3e-3, optim_factory=AdamFactory())
    train(algo, 60)
    batch = make_dataset(is_discrete(algo), seed=1).sample_trajectory_batch(32, length=LENGTH)
    key = "actor_loss" if name == "tacr" else "loss"
    fresh = build(name, learning_rate=1e-9)
    assert algo.update(batch)[key] < 0.9 * abs(fresh.update(batch)[key])


@ALL
def test_resumed_training_goes_on(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"ptbn_steps": 8}
    if not name.startswith("discrete"):
        changes["optim_factory"] = AdamWFactory(
            lr_scheduler_factory=spiking.WarmupCosineFactory(warmup_steps=5, total_steps=30)
        )
    else:
        changes |= {"warmup_tokens": 100, "final_tokens": 2000}
    whole = build(name, **changes)
    data = make_dataset(is_discrete(whole))
    d3rlpy.seed(0)
    batches = [data.sample_trajectory_batch(8, length=LENGTH) for _ in range(10)]

    def update(algo: Any, batch: Any) -> Any:
        torch.manual_seed(0)  # dropout
        return algo.update(batch)

    expected = [update(whole, batch) for batch in batches]
    part = build(name, **changes)
    for batch in batches[:5]:
        update(part, batch)
    part.save(str(tmp_path / "part.d3"))
    resumed = d3rlpy.load_learnable(str(tmp_path / "part.d3"))
    assert int(resumed.impl.progress.step) == 5
    assert [update(resumed, batch) for batch in batches[5:]] == expected[5:]
    assert [m["theta"] for m in expected] == [max(0.0, 1 - i / 8) for i in range(10)]
    for (key, value), other in zip(
        whole.impl.network.state_dict().items(),
        resumed.impl.network.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(value, other), key


def test_logs_hold_rates_theta_and_gradient_norm(tmp_path: Path) -> None:
    algo = build("dsformer")
    adapters = [FileAdapterFactory(str(tmp_path / "csv"))]
    adapters.append(TensorboardAdapterFactory(str(tmp_path / "board")))
    train(algo, 6, 3, logger_adapter=CombineAdapterFactory(adapters))
    (run,) = (tmp_path / "csv").iterdir()
    for metric in ("firing_rate", "firing_rate_min", "firing_rate_max", "theta", "grad_norm"):
        rows = np.loadtxt(run / f"{metric}.csv", delimiter=",")
        assert rows.shape == (2, 3)
        assert np.isfinite(rows).all()
    rates = np.loadtxt(run / "firing_rate.csv", delimiter=",")[:, 2]
    assert np.all((rates > 0.0) & (rates < 1.0))
    assert (run / "model_6.d3").stat().st_size > 0
    events = list((tmp_path / "board").rglob("events.*"))
    assert any(b"firing_rate_max" in path.read_bytes() for path in events)


def test_every_field_of_d3rlpy_s_configs_is_accepted() -> None:
    pairs = {
        "sdt": d3rlpy.algos.DecisionTransformerConfig,
        "dsformer": d3rlpy.algos.DecisionTransformerConfig,
        "strl": d3rlpy.algos.DecisionTransformerConfig,
        "tacr": d3rlpy.algos.TACRConfig,
        "discrete_sdt": d3rlpy.algos.DiscreteDecisionTransformerConfig,
        "discrete_dsformer": d3rlpy.algos.DiscreteDecisionTransformerConfig,
        "discrete_strl": d3rlpy.algos.DiscreteDecisionTransformerConfig,
    }
    for name, theirs in pairs.items():
        values = {f.name: getattr(theirs(), f.name) for f in dataclasses.fields(theirs)}
        config = CONFIGS[name](**values)
        assert all(getattr(config, field) == value for field, value in values.items())


@ALL
def test_dropout_fields_act(name: str) -> None:
    def losses(**changes: float) -> set[float]:
        """The first loss with two seeds of the dropout."""
        off = {"attn_dropout": 0.0, "resid_dropout": 0.0, "embed_dropout": 0.0}
        out = set()
        for seed in range(2):
            algo = build(name, **(off | changes), normalization="tdln", v_threshold=0.1)
            d3rlpy.seed(0)
            batch = make_dataset(is_discrete(algo)).sample_trajectory_batch(8, length=LENGTH)
            torch.manual_seed(seed)
            out.add(algo.update(batch)["actor_loss" if name == "tacr" else "loss"])
        return out

    assert len(losses()) == 1
    for field in ("attn_dropout", "resid_dropout", "embed_dropout"):
        assert len(losses(**{field: 0.5})) == 2, field


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algo = build("dsformer")
    path = tmp_path / "model.d3"
    algo.save(str(path))
    before = path.read_bytes()

    def broken(_file: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(algo.impl, "save_model", broken)
    for save in (algo.save, algo.save_model):
        with pytest.raises(OSError, match="disk full"):
            save(str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_seeds_decide_everything() -> None:
    states = []
    for _ in range(2):
        algo = build("dsformer", attn_dropout=0.1)
        train(algo, 5)
        states.append(algo.impl.network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_deepcopy_and_plain_state(tmp_path: Path) -> None:
    algo = build("sdt")
    algo.save_model(str(tmp_path / "model.pt"))
    other = make_config("sdt").create()
    other.create_impl((5,), 2)
    other.load_model(str(tmp_path / "model.pt"))
    inpt = make_context(algo)
    np.testing.assert_array_equal(algo.predict(inpt), other.predict(inpt))
