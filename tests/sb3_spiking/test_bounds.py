from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecNormalize

from policies.actor import PopulationBody
from policies.normalizer import RunningNormalizer
from sb3_spiking.bounds import feature_bounds
from tests.sb3_spiking import matrix
from tests.sb3_spiking.envs import DICT, IMAGE

MIXED = spaces.Box(
    np.array([-4.8, -np.inf, -0.4, -3.4e38, 2.0], np.float32),
    np.array([4.8, np.inf, 0.2, 3.4e38, 2.0], np.float32),
)

CHANNELS_FIRST = spaces.Box(0, 255, (3, 36, 36), np.uint8)


def body(model: Any) -> PopulationBody:
    return next(m for m in model.policy.modules() if isinstance(m, PopulationBody))


def test_bounded_features_fill_the_encoders_range_and_stay() -> None:
    normalizer = RunningNormalizer(5)
    bounds = feature_bounds(MIXED, FlattenExtractor(MIXED), 5)
    assert bounds is not None
    normalizer.fix_bounds(*bounds)
    # A feature of one value has no range either.
    assert normalizer.running_fixed.tolist() == [1, 0, 1, 0, 0]
    low = torch.tensor([[-4.8, 0.0, -0.4, 0.0, 2.0]])
    high = torch.tensor([[4.8, 0.0, 0.2, 0.0, 2.0]])
    torch.testing.assert_close(normalizer(low)[0, [0, 2]], torch.tensor([-3.0, -3.0]))
    torch.testing.assert_close(normalizer(high)[0, [0, 2]], torch.tensor([3.0, 3.0]))
    generator = torch.Generator().manual_seed(0)
    data = 7.0 + 0.1 * torch.randn(1000, 5, generator=generator)
    data[:, 0], data[:, 2] = 4.8, -0.4
    normalizer.update(data)
    torch.testing.assert_close(normalizer(high)[0, [0, 2]], torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(normalizer.running_mean[[1, 3, 4]], data.mean(0)[[1, 3, 4]])
    torch.testing.assert_close(
        normalizer.running_var[[1, 3, 4]], data.var(0, correction=0)[[1, 3, 4]]
    )


def test_deferred_updates_leave_bounded_features_too() -> None:
    normalizer = RunningNormalizer(2, deferred=True)
    normalizer.fix_bounds(torch.tensor([-1.0, -torch.inf]), torch.tensor([1.0, torch.inf]))
    before = normalizer.running_var.clone()
    normalizer.train()
    normalizer.update(torch.tensor([[0.5, 5.0]] * 8))
    normalizer.eval()
    assert normalizer.running_var[0] == before[0]
    assert normalizer.running_mean.tolist() == [0.0, 5.0]


@pytest.mark.parametrize("deferred", [False, True])
def test_bounds_that_data_contradict_are_given_up(deferred: bool) -> None:
    normalizer = RunningNormalizer(3, deferred=deferred)
    normalizer.fix_bounds(-torch.ones(3), torch.ones(3))
    normalizer.train()
    first = torch.tensor([[0.0, 0.0, 1.04], [0.5, 2.0, 0.0]])  # rounding is no contradiction
    normalizer.update(first)
    assert not deferred or normalizer.running_fixed.tolist() == [1, 1, 1]
    normalizer.eval()
    assert normalizer.running_fixed.tolist() == [1, 0, 1]
    assert normalizer.running_mean.tolist() == [0.0, 1.0, 0.0]
    assert normalizer.running_var[1] == 1.0
    normalizer.train()
    normalizer.update(torch.zeros(2, 3))
    normalizer.eval()
    assert normalizer.running_fixed.tolist() == [1, 0, 1]
    assert normalizer.running_mean[1] == 0.5


def test_broken_batches_give_up_nothing() -> None:
    normalizer = RunningNormalizer(2)
    normalizer.fix_bounds(-torch.ones(2), torch.ones(2))
    state = {name: value.clone() for name, value in normalizer.state_dict().items()}
    for bad in (torch.nan, torch.inf):
        normalizer.update(torch.tensor([[bad, 0.0], [5.0, 0.0]]))
    assert all(torch.equal(value, state[name]) for name, value in normalizer.state_dict().items())


@pytest.mark.parametrize("algorithm", ["DQN", "QRDQN", "TRPO"])
def test_under_vecnormalize_little_is_clipped(algorithm: str) -> None:
    """It rescales observations and leaves the bounds of their space as they were."""
    env = VecNormalize(make_vec_env("MountainCar-v0", 1, seed=0))
    model = matrix.make(algorithm, env)
    model.learn(200)
    obs = env.normalize_obs(np.array([[-0.5, 0.0], [-0.45, 0.01], [-0.55, -0.01]]))
    normalizer = body(model).eval().normalizer
    assert normalizer is not None
    assert normalizer.running_fixed[1] == 0
    z = normalizer(torch.as_tensor(obs, dtype=torch.float32))
    assert z[:, 1].abs().max() < 3.0
    assert z[:, 1].unique().numel() == 3


def test_bounds_of_another_shape_are_named() -> None:
    with pytest.raises(ValueError, match=r"low must be \[3\], one bound a feature, got \(2,\)"):
        RunningNormalizer(3).fix_bounds(torch.zeros(2), torch.ones(3))


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(3), [0.0, 1.0]),
        (spaces.MultiBinary(3), [0.0, 1.0]),
        (spaces.Box(-2.0, 5.0, (3,), np.float32), [-2.0, 5.0]),
        (spaces.Box(-2.0, 5.0, (3,), np.float64), [-2.0, 5.0]),
        (spaces.Box(-10.0, 10.0, (3,), np.float32), [-10.0, 10.0]),
        (spaces.Box(-1e9, 1e9, (3,), np.float32), [-np.inf, np.inf]),
        (spaces.Box(-1.7e308, 3.0, (3,), np.float64), [-np.inf, 3.0]),
        (spaces.Box(-np.inf, np.inf, (3,), np.int64), [-np.inf, np.inf]),
        (spaces.Box(-np.inf, 5, (3,), np.int32), [-np.inf, 5.0]),
    ],
)
def test_what_is_known(space: spaces.Space[Any], expected: list[float]) -> None:
    bounds = feature_bounds(space, FlattenExtractor(space), 3)
    assert bounds is not None
    assert torch.stack(bounds, dim=1).tolist() == [expected] * 3


def test_dict_observations_have_the_bounds_of_their_parts() -> None:
    space = spaces.Dict({**DICT.spaces, "c": spaces.Discrete(2), "i": CHANNELS_FIRST})
    extractor = CombinedExtractor(space, cnn_output_dim=4)
    bounds = feature_bounds(space, extractor, extractor.features_dim)
    assert bounds is not None
    assert bounds[0].tolist() == [-np.inf] * 3 + [0.0] * 4 + [-np.inf] * 4
    assert bounds[1].tolist() == [np.inf] * 3 + [1.0] * 4 + [np.inf] * 4


def test_other_extractors_have_none() -> None:
    assert feature_bounds(IMAGE, NatureCNN(CHANNELS_FIRST, 4), 4) is None
    assert feature_bounds(IMAGE, FlattenExtractor(IMAGE), 36 * 36 * 3) is None


@pytest.mark.parametrize("algorithm", list(matrix.ALGORITHMS))
def test_every_algorithm_takes_the_bounds(algorithm: str) -> None:
    action = matrix.action_spaces(algorithm)[0]
    env = matrix.environment(algorithm, "Box", action)
    env.observation_space = spaces.Box(-2.0, 4.0, (3,), np.float32)
    model = matrix.make(algorithm, env, policy_kwargs={"normalize_obs": "bounds"})
    matrix.learn(model)
    normalizer = body(model).normalizer
    assert normalizer is not None
    if algorithm == "RecurrentPPO":  # what it normalizes are LSTM outputs
        assert not normalizer.running_fixed.any()
    else:
        assert normalizer.running_mean.tolist() == [1.0] * 3
        assert normalizer.running_var.tolist() == [1.0] * 3


@pytest.mark.parametrize("algorithm", ["DQN", "QRDQN", "ARS", "TRPO", "TD3", "PPO"])
def test_defaults(algorithm: str) -> None:
    model = matrix.make(
        algorithm, matrix.environment(algorithm, "Box", matrix.action_spaces(algorithm)[-1])
    )
    expected = True if algorithm in ("TD3", "PPO") else "bounds"
    assert model.policy.options.normalize_obs == expected


def test_the_mask_survives_saving(tmp_path: Any) -> None:
    env = matrix.environment("DQN", "Discrete", "Discrete")
    model = matrix.make("DQN", env)
    matrix.learn(model)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=env)
    loaded.learn(24)
    normalizer = body(loaded).normalizer
    assert normalizer is not None
    assert normalizer.running_fixed.all()
    assert normalizer.running_mean.tolist() == [0.5] * 5


def test_a_bad_value_is_named() -> None:
    env = matrix.environment("DQN", "Box", "Discrete")
    with pytest.raises(TypeError, match="must be True, False or 'bounds', got 'bound'"):
        matrix.make("DQN", env, policy_kwargs={"normalize_obs": "bound"})
