"""`predict` without the batched network, and `to_event_driven`, for each algorithm."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch.nn.utils import prune

import sb3_spiking  # noqa: F401  # registers
from policies import actor as actor_module
from policies.kernels import choice
from sb3_spiking import event_driven, mixin
from sb3_spiking.td3 import SpikingTD3Policy

NET = {"net_arch": [24, 16]}


class Env(gym.Env[NDArray[np.float32], Any]):
    """Observations of any kind, actions of any kind, no purpose."""

    def __init__(self, action_space: spaces.Space[Any], shape: tuple[int, ...] = (5,)) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: Any) -> Any:
        return self._draw(), 0.0, False, bool(self.np_random.random() < 0.1), {}

    def _draw(self) -> NDArray[np.float32]:
        shape = self.observation_space.shape
        assert shape is not None
        return self.np_random.normal(size=shape).astype(np.float32) * 3


BOX = spaces.Box(np.array([-1.0, 0.0, -3.0], np.float32), np.array([2.0, 5.0, 3.0], np.float32))
CASES: list[tuple[Any, spaces.Space[Any]]] = [
    (TD3, BOX),
    (DDPG, BOX),
    (SAC, BOX),
    (TQC, BOX),
    (CrossQ, BOX),
    (PPO, BOX),
    (A2C, BOX),
    (PPO, spaces.Discrete(4)),
    (DQN, spaces.Discrete(4)),
]
IDS = [f"{algorithm.__name__}-{type(space).__name__}" for algorithm, space in CASES]


def make(algorithm: Any, space: spaces.Space[Any], **kwargs: Any) -> Any:
    shape = kwargs.pop("shape", (5,))
    options = {**NET, **kwargs}
    model = algorithm("SpikingPopPolicy", Env(space, shape), policy_kwargs=options, seed=0)
    for name, tensor in model.policy.state_dict().items():
        if name.endswith("linears.0.weight"):
            tensor.mul_(3.0)  # uneven firing
        if name.endswith("action_net.weight"):
            tensor.mul_(100.0)
    return model


@pytest.mark.parametrize(("algorithm", "space"), CASES, ids=IDS)
def test_predict_is_the_batched_one(
    algorithm: Any, space: spaces.Space[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(algorithm, space)
    frozen = model.policy.to_event_driven()
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(60, 5)).astype(np.float32) * 3
    ours = [model.predict(obs, deterministic=True) for obs in observations]
    few = model.predict(observations[:7], deterministic=True)
    bare = [frozen.predict(obs) for obs in observations]
    bare_few = frozen.predict(observations[:7])

    monkeypatch.setattr(actor_module, "EVENT_DRIVEN_BATCH", 0)
    monkeypatch.setattr(mixin, "decide", lambda *_: None)
    expected = [model.predict(obs, deterministic=True) for obs in observations]
    expected_few = model.predict(observations[:7], deterministic=True)

    actions = np.stack([action for action, _ in expected])
    assert len(np.unique(actions, axis=0)) > 1
    for results in (ours, bare):
        for (action, state), (reference, _) in zip(results, expected, strict=True):
            assert state is None
            assert np.array_equal(action, reference)
            assert np.asarray(action).dtype == np.asarray(reference).dtype
            assert np.shape(action) == np.shape(reference)
            assert space.contains(action)
    assert np.array_equal(few[0], expected_few[0])
    assert np.array_equal(bare_few[0], expected_few[0])


@pytest.mark.parametrize(("algorithm", "space"), CASES, ids=IDS)
def test_predict_comes_here(
    algorithm: Any, space: spaces.Space[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(algorithm, space)
    taken: list[bool] = []

    def watched(*args: Any) -> Any:
        action = original(*args)
        taken.append(action is not None)
        return action

    original = event_driven.decide
    monkeypatch.setattr(mixin, "decide", watched)
    model.predict(np.zeros(5, np.float32), deterministic=True)
    assert taken == [True]


def test_it_follows_training() -> None:
    model = make(TD3, BOX)
    model.learning_starts = 10
    obs = np.ones(5, np.float32)
    before = model.predict(obs)[0]
    frozen = model.policy.to_event_driven()
    model.learn(60)
    after = model.predict(obs)[0]
    assert not np.array_equal(after, before)
    assert np.array_equal(model.predict(np.tile(obs, (40, 1)))[0][0], after)
    assert np.array_equal(frozen.predict(obs)[0], before)
    assert not model.policy.training


def test_evaluate_policy_takes_it() -> None:
    model = make(PPO, BOX)
    mean, _ = evaluate_policy(
        model.policy.to_event_driven(), model.get_env(), n_eval_episodes=2, warn=False
    )
    assert mean == 0.0


def test_drawing_policies_still_draw() -> None:
    model = make(PPO, BOX)
    obs = np.ones(5, np.float32)
    draws = {model.predict(obs, deterministic=False)[0].tobytes() for _ in range(5)}
    assert len(draws) == 5
    poisson = make(TD3, BOX, encoder="poisson")
    assert len({poisson.predict(obs)[0].tobytes() for _ in range(20)}) > 1
    assert len({poisson.predict(obs, deterministic=True)[0].tobytes() for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("algorithm", "space", "kwargs"),
    [
        (RecurrentPPO, BOX, {}),
        (MaskablePPO, spaces.Discrete(3), {}),
        (PPO, spaces.MultiDiscrete([2, 3]), {}),
        (QRDQN, spaces.Discrete(3), {}),
    ],
)
def test_policies_that_cannot(algorithm: Any, space: spaces.Space[Any], kwargs: Any) -> None:
    name = "SpikingPopLstmPolicy" if algorithm is RecurrentPPO else "SpikingPopPolicy"
    model = algorithm(name, Env(space), policy_kwargs=dict(NET))
    with pytest.raises(ValueError, match="cannot be event-driven"):
        model.policy.to_event_driven()
    model.predict(np.zeros(5, np.float32), deterministic=True)


def test_gsde_cannot() -> None:
    model = SAC("SpikingPopPolicy", Env(BOX), policy_kwargs=dict(NET), use_sde=True)
    with pytest.raises(ValueError, match="cannot be event-driven"):
        model.policy.to_event_driven()  # type: ignore[operator]  # SB3's type of `policy`


def test_trpo_acts_event_driven_only_when_frozen() -> None:
    model = make(TRPO, BOX)
    obs = np.ones(5, np.float32)
    action = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(model.policy.to_event_driven().predict(obs)[0], action)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(TD3, BOX)
    monkeypatch.setattr(mixin, "has_numba", lambda: False)
    with pytest.raises(ImportError, match=r"spiking-policies\[fast\]"):
        model.policy.to_event_driven()


def test_broken_observations_and_weights_are_named() -> None:
    model = make(TD3, BOX)
    frozen = model.policy.to_event_driven()
    bad = np.array([0, 0, np.nan, 0, 0], np.float32)
    for policy in (model, frozen):
        with pytest.raises(ValueError, match=r"observations must be finite, got NaN .* feature 2"):
            policy.predict(bad)
        with pytest.raises(ValueError, match="Unexpected observation shape"):
            policy.predict(np.zeros(4, np.float32))
    model.policy.actor.mu.decoder.weight.data[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinite.*actor.mu.decoder.weight"):
        model.predict(np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="output is NaN or infinite"):
        model.policy.to_event_driven().predict(np.zeros(5, np.float32))


def test_other_observations() -> None:
    """Matrices are flattened; images and dicts go through their extractor."""
    model = make(TD3, BOX, shape=(2, 3))
    obs = np.arange(6, dtype=np.float32).reshape(2, 3) / 3
    frozen = model.policy.to_event_driven()
    batch = model.predict(np.tile(obs, (40, 1, 1)))[0]
    assert np.array_equal(model.predict(obs)[0], batch[0])
    assert np.array_equal(frozen.predict(obs)[0], batch[0])

    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
    env = Env(BOX)
    env.observation_space = space  # type: ignore[assignment]  # another kind on purpose
    env._draw = space.sample  # type: ignore[assignment,method-assign]
    model = TD3("SpikingPopMultiInputPolicy", env, policy_kwargs=dict(NET))
    sample = {"a": np.array([0.5, -0.5], np.float32), "b": np.array(1)}
    frozen = model.policy.to_event_driven()  # type: ignore[operator]
    assert np.array_equal(frozen.predict(sample)[0], model.predict(sample)[0])


def test_a_copied_policy_decides_for_itself() -> None:
    model = make(TD3, BOX)
    obs = np.ones(5, np.float32)
    action = model.predict(obs)[0]
    other = copy.deepcopy(model.policy)
    other.actor.mu.decoder.weight.data.mul_(-1)
    assert np.array_equal(model.predict(obs)[0], action)
    assert not np.array_equal(other.predict(obs)[0], action)


@pytest.mark.parametrize("matmul", ["float32", "exact", "bf16"])
@pytest.mark.parametrize("kernel", ["torch", "fused", "numba"])
def test_saved_with_one_loaded_with_another(tmp_path: Path, matmul: str, kernel: str) -> None:
    model = make(TD3, BOX, matmul=matmul, kernel=kernel)
    model.save(tmp_path / "model")
    obs = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    same = TD3.load(tmp_path / "model")
    assert np.array_equal(same.predict(obs)[0], model.predict(obs)[0])
    for other in ("float32", "exact", "bf16"):
        options = {**NET, "matmul": other, "kernel": "auto"}
        loaded = TD3.load(tmp_path / "model", custom_objects={"policy_kwargs": options})
        assert loaded.policy.actor.options.matmul == other
        difference = np.abs(loaded.predict(obs)[0] - model.predict(obs)[0])
        assert difference.mean() < 0.05


def test_the_kernel_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    choice._pick.cache_clear()
    with caplog.at_level("INFO", logger="policies.kernels.choice"):
        model = make(TD3, BOX)
        for _ in range(3):
            model.predict(np.zeros((40, 5), np.float32))
    messages = [record.message for record in caplog.records]
    assert messages == ["spiking kernel on cpu: numba (asked for: auto)"]


def test_statistics_that_wait_are_taken_in() -> None:
    """PPO's normalizer learns between updates; the last ones wait for the next decision."""
    model = PPO("SpikingPopPolicy", Env(BOX), n_steps=64, policy_kwargs=dict(NET), seed=0)
    model.learn(128)
    frozen = model.policy.to_event_driven()  # type: ignore[operator]  # SB3's type of `policy`
    observations = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * 3
    for obs in observations:
        assert np.array_equal(frozen.predict(obs)[0], model.predict(obs, deterministic=True)[0])


def test_compiled_parts_of_a_policy() -> None:
    model = make(SAC, BOX)
    model.policy.critic = torch.compile(model.policy.critic, backend="eager")
    obs = np.ones(5, np.float32)
    for _ in range(2):
        assert model.predict(obs, deterministic=True)[0].shape == (3,)


def test_a_pruned_readout() -> None:
    model = make(PPO, BOX)
    prune.l1_unstructured(model.policy.action_net, "weight", 0.5)
    obs = np.ones(5, np.float32)
    action = model.predict(obs, deterministic=True)[0]
    assert np.array_equal(model.predict(np.tile(obs, (40, 1)), deterministic=True)[0][0], action)


class Zero(SpikingTD3Policy):
    """A user's policy that decides in its own way."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return torch.zeros(len(observation), 3)


def test_overrides_are_obeyed() -> None:
    model = TD3(Zero, Env(BOX), policy_kwargs=dict(NET))
    middle = (BOX.low + BOX.high) / 2
    np.testing.assert_allclose(model.predict(np.ones(5, np.float32))[0], middle)


def test_mistakes_that_sb3_explains() -> None:
    model = make(TD3, BOX)
    frozen = model.policy.to_event_driven()
    obs = np.ones(5, np.float32)
    with pytest.raises(ValueError, match="You have passed a tuple"):
        model.predict((obs, {}))
    for policy in (model, frozen):
        with pytest.raises((TypeError, ValueError)):
            policy.predict(np.array(["1", "2", "3", "4", "5"]))


class Dropping(BaseFeaturesExtractor):
    """An extractor that draws in training mode."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 5)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = self.drop(obs)
        return dropped


def test_an_extractor_in_evaluation_mode() -> None:
    options = {**NET, "features_extractor_class": Dropping}
    model = PPO("SpikingPopPolicy", Env(BOX), policy_kwargs=options, seed=0)
    model.policy.set_training_mode(True)
    frozen = model.policy.to_event_driven()  # type: ignore[operator]  # SB3's type of `policy`
    obs = np.ones(5, np.float32)
    assert len({frozen.predict(obs)[0].tobytes() for _ in range(5)}) == 1
    assert np.array_equal(frozen.predict(obs)[0], model.predict(obs, deterministic=True)[0])


def test_trpo_chooses_its_kernel() -> None:
    model = TRPO("SpikingPopPolicy", Env(BOX), policy_kwargs={**NET, "kernel": "auto"})
    body: Any = model.policy.mlp_extractor.policy_net
    assert body.config.kernel == "torch"
    with pytest.raises(ValueError, match=r"differentiates the policy twice.*'fused'"):
        TRPO("SpikingPopPolicy", Env(BOX), policy_kwargs={**NET, "kernel": "fused"})
