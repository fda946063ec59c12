"""Bad input is named, early, and changes nothing."""

import time
from typing import Any

import numpy as np
import pytest
import torch

from tests.sb3_spiking.envs import ACTION, DICT, FaultyEnv, TinyEnv
from tests.sb3_spiking.test_td3 import make, weights

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"encoder_pop_size": 0}, ValueError, "encoder_pop_size must be at least 1, got 0"),
    ({"decoder_pop_size": 0}, ValueError, "decoder_pop_size must be at least 1, got 0"),
    ({"encoder_pop_size": 2.5}, TypeError, "encoder_pop_size must be an integer, got 2.5"),
    ({"spike_steps": 0}, ValueError, "spike_steps must be at least 1"),
    ({"v_decay": -0.1}, ValueError, r"v_decay must be in \[0, 1\], got -0.1"),
    ({"i_decay": -1}, ValueError, r"i_decay must be in \[0, 1\], got -1"),
    ({"neuron": "lif", "i_decay": -1}, ValueError, r"i_decay must be in \[0, 1\], got -1"),
    ({"v_threshold": -0.5}, ValueError, "v_threshold"),
    ({"encoder": "rate"}, ValueError, r"\['deterministic', 'poisson', 'analog'\], got 'rate'"),
    ({"neuron": "izhikevich"}, ValueError, r"\['current_lif', 'lif'\], got 'izhikevich'"),
    (
        {"reset_mode": "none"},
        ValueError,
        r"reset_mode must be one of \['hard', 'soft'\], got 'none'",
    ),
    ({"decoder": "softmax"}, ValueError, r"\['rate', 'membrane'\], got 'softmax'"),
    ({"surrogate": "step"}, ValueError, r"\['rectangle', 'sigmoid', 'arctan', 'triangle'\]"),
    ({"surrogate_width": 0.0}, ValueError, "surrogate_width"),
    ({"encoder_std": -1.0}, ValueError, "encoder_std"),
    ({"encoder_v_init": 1.0}, ValueError, r"encoder_v_init must be in \[0, 1\), got 1.0"),
    ({"encoder_v_init": "0.5"}, TypeError, "encoder_v_init must be a number, got '0.5'"),
    (
        {"encoder_v_init": 0.5, "encoder": "analog"},
        ValueError,
        "encoder_v_init=0.5 with encoder='analog'",
    ),
    ({"encoder_range": float("inf")}, ValueError, "encoder_range"),
    ({"actor_lr_scale": 0.0}, ValueError, "actor_lr_scale"),
    ({"actor_lr_scale": "0.3"}, TypeError, "actor_lr_scale must be a number"),
    ({"normalize_obs": 1}, TypeError, "normalize_obs must be True, False or 'bounds', got 1"),
    (
        {"matmul": "int4"},
        ValueError,
        r"matmul must be one of \['exact', 'float32', 'bf16'\], got 'int4'",
    ),
    (
        {"kernel": "cuda"},
        ValueError,
        r"kernel must be one of \['auto', 'torch', 'fused', 'numba', 'triton'\], got 'cuda'",
    ),
    ({"net_arch": [64, 0]}, ValueError, "net_arch sizes must be at least 1, got 0"),
    ({"spike_step": 5}, TypeError, "unknown keyword 'spike_step'.*spike_steps"),
    ({"use_sde": True}, TypeError, "unknown keyword 'use_sde'"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), OPTIONS, ids=lambda value: str(value)[:40]
)
def test_options_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(error, match=message):
        make(policy_kwargs=options)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predict_refuses_non_finite_observations_and_changes_nothing(bad: float) -> None:
    model = make()
    model.learn(40)
    before = weights(model)
    obs = np.zeros((6, 3), np.float32)
    expected, _ = model.predict(obs)
    obs[4, 1] = bad
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"observations must be finite.*feature 1.*1 of 18"):
        model.predict(obs)
    with pytest.raises(ValueError, match="finite"):
        model.predict(obs[4])
    assert time.perf_counter() - start < 1.0
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    np.testing.assert_array_equal(model.predict(np.zeros((6, 3), np.float32))[0], expected)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at", [5, 15])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_learning_stops_at_non_finite_observations(bad: float, at: int, seed: int) -> None:
    """Whether a network acts on it or meets it in a small replay batch, nothing has broken."""
    model = make(FaultyEnv(bad, at), learning_starts=10, batch_size=4, seed=seed)
    with pytest.raises(ValueError, match=r"observations must be finite.*feature 1"):
        model.learn(100)
    assert all(torch.isfinite(value).all() for value in weights(model).values())
    assert np.isfinite(model.predict(np.zeros((1, 3), np.float32))[0]).all()


def test_broken_dict_observations_name_their_key() -> None:
    model = make(TinyEnv(DICT, ACTION), "SpikingPopMultiInputPolicy")
    obs = {"a": np.zeros((2, 3), np.float32), "b": np.full((2, 2), np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"observations\['b'\] must be finite"):
        model.predict(obs)


@pytest.mark.parametrize("name", ["mu.encoder.std", "mu.mlp.linears.1.weight", "mu.decoder.bias"])
def test_broken_weights_are_named(name: str) -> None:
    model = make()
    with torch.no_grad():
        model.actor.get_parameter(name).fill_(float("nan"))
    with pytest.raises(
        ValueError, match=rf"output is NaN or infinite: \['actor.{name}'\].*earlier checkpoint"
    ):
        model.predict(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("shape", [(4,), (2,), (5, 4), (1, 1, 3)])
def test_wrong_observation_size(shape: tuple[int, ...]) -> None:
    model = make()
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"must be \[B, 3\] \(batch first\)"):
        model.actor.mu(torch.zeros(2, 4))
