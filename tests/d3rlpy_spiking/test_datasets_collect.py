"""Datasets from Stable-Baselines3 agents: each action stays with the observation it answered."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from d3rlpy.algos import TD3PlusBCConfig
from d3rlpy.constants import ActionSpace
from d3rlpy.logging import NoopAdapterFactory
from gymnasium import spaces
from sb3_contrib import TQC, MaskablePPO, RecurrentPPO
from stable_baselines3 import DQN, PPO, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from d3rlpy_spiking.dataset_checks import ANY_RANGE, check_dataset
from d3rlpy_spiking.datasets import action_scaler, collect_from_sb3
from tests.common import ROOT

AGENTS = ROOT.parent / "shared" / "agents"
needs_agents = pytest.mark.skipif(
    not AGENTS.is_dir(), reason="the published agents are not beside the repository"
)

# (steps, terminated, truncated) of the episodes, over and over
ENDS = [(3, True, False), (4, False, True), (2, True, True)]
BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTION = spaces.Box(-2.0, 2.0, (2,), np.float32)


class CountingEnv(gym.Env[Any, Any]):
    """Observation [name, episode, step]; the reward for the action at step k is 10 + k."""

    def __init__(self, name: int = 0, action_space: spaces.Space[Any] = ACTION) -> None:
        self.observation_space = BOX
        self.action_space = action_space
        self.name, self.episode, self.step_ = name, -1, 0

    def _obs(self) -> Any:
        return np.array([self.name, self.episode, self.step_], np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.step_ = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        steps, terminated, truncated = ENDS[self.episode % len(ENDS)]
        reward = 10.0 + self.step_
        self.step_ += 1
        end = self.step_ == steps
        return self._obs(), reward, end and terminated, end and truncated, {}

    def action_masks(self) -> Any:
        return np.array([self.step_ % 2 == 0, self.step_ % 2 == 1, False])


class SpaceEnv(CountingEnv):
    """As CountingEnv, with random observations of any space."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: Any = ACTION) -> None:
        super().__init__(action_space=action_space)
        self.observation_space = observation_space

    def _obs(self) -> Any:
        return self.observation_space.sample()


def ppo(env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> PPO:
    return PPO(policy, env, n_steps=8, batch_size=8, seed=0, device="cpu", **kwargs)


def generators() -> tuple[Any, ...]:
    """States of torch's and numpy's global generators."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numpy_state[1].tobytes(), *numpy_state[2:]


def vec(n_envs: int) -> DummyVecEnv:
    return DummyVecEnv([partial(CountingEnv, i) for i in range(n_envs)])


def test_episodes_are_those_of_the_environment() -> None:
    model = ppo(CountingEnv())
    buffer = collect_from_sb3(model, CountingEnv(), 11, deterministic=True)
    # The last episode still ran: closed as a timeout after 2 of its 3 steps.
    assert [(len(e), e.terminated) for e in buffer.episodes] == [
        (3, True),
        (4, False),
        (2, True),
        (2, False),
    ]
    for k, episode in enumerate(buffer.episodes):
        steps = np.arange(len(episode))
        np.testing.assert_array_equal(episode.observations[:, 1], k)
        np.testing.assert_array_equal(episode.observations[:, 2], steps)
        np.testing.assert_array_equal(episode.rewards[:, 0], 10 + steps)
        expected, _ = model.predict(episode.observations, deterministic=True)
        np.testing.assert_allclose(episode.actions, expected, atol=1e-6)
    info = buffer.dataset_info
    assert (info.action_space, info.action_size) == (ActionSpace.CONTINUOUS, 2)
    first = buffer.episodes[0]
    assert [a.dtype for a in (first.observations, first.actions, first.rewards)] == ["f4"] * 3
    check_dataset(buffer, discrete=False, action_scaler=ANY_RANGE)


def test_n_steps_counts_over_all_environments() -> None:
    buffer = collect_from_sb3(ppo(CountingEnv()), vec(3), 17)
    lengths = {name: [] for name in range(3)}  # type: dict[int, list[int]]
    for episode in buffer.episodes:
        name, k = episode.observations[0, :2].astype(int)
        np.testing.assert_array_equal(episode.observations[:, 0], name)
        np.testing.assert_array_equal(episode.observations[:, 1], k)
        np.testing.assert_array_equal(episode.observations[:, 2], np.arange(len(episode)))
        lengths[name].append(len(episode))
    assert lengths == {0: [3, 3], 1: [3, 3], 2: [3, 2]}


def test_a_last_piece_of_one_step_holds_no_transition() -> None:
    model = ppo(CountingEnv())
    assert [len(e) for e in collect_from_sb3(model, CountingEnv(), 4).episodes] == [3]
    with pytest.raises(ValueError, match="none of its 1 episodes holds a transition"):
        collect_from_sb3(model, CountingEnv(), 1)
    with pytest.raises(ValueError, match="none of its 2 episodes holds a transition"):
        collect_from_sb3(model, vec(3), 2)


def test_behind_vecnormalize_the_dataset_is_raw_and_the_agent_sees_normalized() -> None:
    env = VecNormalize(vec(2), clip_obs=5.0)
    model = ppo(env)
    model.learn(16)
    assert env.training
    statistics: Any = env.obs_rms
    before = (statistics.mean.copy(), statistics.count, env.ret_rms.count)
    buffer = collect_from_sb3(model, env, 18, deterministic=True)
    assert env.training
    np.testing.assert_array_equal(statistics.mean, before[0])
    assert (statistics.count, env.ret_rms.count) == before[1:]
    assert sum(len(e) for e in buffer.episodes) == 18
    for episode in buffer.episodes:
        steps = np.arange(len(episode))
        np.testing.assert_array_equal(episode.observations[:, 2], steps)
        np.testing.assert_array_equal(episode.rewards[:, 0], 10 + steps)
        seen = env.normalize_obs(episode.observations)
        assert isinstance(seen, np.ndarray)
        assert not np.allclose(seen, episode.observations)
        expected, _ = model.predict(seen, deterministic=True)
        np.testing.assert_allclose(episode.actions, expected, atol=1e-5)

    with pytest.raises(ValueError, match="trained behind VecNormalize and env is not"):
        collect_from_sb3(model, CountingEnv(), 18)
    stacked = VecFrameStack(VecNormalize(vec(1)), 2)
    with pytest.raises(ValueError, match="VecNormalize must be the last wrapper"):
        collect_from_sb3(ppo(stacked), stacked, 18)


def test_a_seed_repeats_the_run_and_leaves_the_global_generators() -> None:
    dqn = DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    dqn.exploration_rate = 0.5
    for model in (dqn, ppo("CartPole-v1")):
        runs = []
        for seed in (1, 1, 2):
            torch.rand(3)  # each run starts from other global states
            np.random.rand(3)  # noqa: NPY002
            before = generators()
            runs.append(collect_from_sb3(model, "CartPole-v1", 60, seed=seed))
            assert generators() == before
        for name in ("observations", "actions"):
            first, again, other = (
                np.concatenate([getattr(e, name) for e in run.episodes]) for run in runs
            )
            np.testing.assert_array_equal(first, again)
            assert len(first) != len(other) or (first != other).any()


def test_discrete_actions_keep_their_number() -> None:
    env = CountingEnv(action_space=spaces.Discrete(7))
    buffer = collect_from_sb3(ppo(env), env, 9, deterministic=True)
    info = buffer.dataset_info
    assert (info.action_space, info.action_size) == (ActionSpace.DISCRETE, 7)
    assert buffer.episodes[0].actions.shape == (3, 1)
    assert buffer.episodes[0].actions.dtype == np.int64
    check_dataset(buffer, discrete=True)


def test_actions_keep_the_units_of_the_environment_and_d3rlpy_trains_with_the_scaler() -> None:
    model = TD3("MlpPolicy", "Pendulum-v1", seed=0, device="cpu")
    with torch.no_grad():
        model.actor.mu.get_parameter("4.bias").fill_(3.0)  # about 2, the largest torque
    buffer = collect_from_sb3(model, "Pendulum-v1", 250, progress=True)
    assert [(len(e), e.terminated) for e in buffer.episodes] == [(200, False), (50, False)]
    assert buffer.episodes[0].actions.max() > 1.8
    with pytest.raises(ValueError, match="set action_scaler"):
        check_dataset(buffer, discrete=False)
    scaler = action_scaler(model.action_space)
    assert scaler is not None
    scaled = scaler.transform_numpy(np.array([-2.0, 1.0])[:, None])
    np.testing.assert_allclose(scaled[:, 0], np.array([-1.0, 0.5]))
    algorithm = TD3PlusBCConfig(batch_size=8, action_scaler=scaler).create()
    algorithm.fit(buffer, 2, 1, show_progress=False, logger_adapter=NoopAdapterFactory())
    assert np.abs(algorithm.predict(buffer.episodes[0].observations)).max() <= 2.0


def test_recurrent_agents_get_their_state_back() -> None:
    model = RecurrentPPO("MlpLstmPolicy", CountingEnv(), n_steps=8, batch_size=8, seed=0)
    with torch.no_grad():
        model.policy.get_parameter("action_net.weight").mul_(
            100.0
        )  # so that the state shows in the actions
    buffer = collect_from_sb3(model, vec(2), 18, deterministic=True)
    stateless = []
    for episode in buffer.episodes:
        state = None
        for t, obs in enumerate(episode.observations):
            action, state = model.predict(
                obs, state=state, episode_start=np.array([t == 0]), deterministic=True
            )
            np.testing.assert_allclose(episode.actions[t], action, atol=1e-5)
            stateless.append(np.abs(model.predict(obs, deterministic=True)[0] - action).max())
    assert max(stateless) > 1e-3


def test_masked_agents_get_the_action_masks() -> None:
    env = CountingEnv(action_space=spaces.Discrete(3))
    model = MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0)
    for episode in collect_from_sb3(model, env, 27).episodes:
        np.testing.assert_array_equal(episode.actions[:, 0], np.arange(len(episode)) % 2)


@pytest.mark.parametrize("interval", [-1, 2])
def test_gsde_draws_new_noise(interval: int) -> None:
    still = spaces.Box(0.5, 0.5, (3,), np.float32)  # the same observation always
    env = SpaceEnv(still)
    model = ppo(env, use_sde=True, sde_sample_freq=interval, policy_kwargs={"log_std_init": -3.0})
    first, second, *_ = collect_from_sb3(model, env, 9, seed=0).episodes
    assert (first.actions[0] == first.actions[1]).all()
    assert (first.actions[0] != second.actions[0]).all()
    assert (first.actions[0] == first.actions[2]).all() == (interval == -1)
    quiet = collect_from_sb3(model, env, 9, deterministic=True)
    assert len({tuple(a) for e in quiet.episodes for a in e.actions}) == 1


def test_images_are_stored_as_d3rlpy_wants_them() -> None:
    env = SpaceEnv(spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Discrete(3))
    model = ppo(env, "CnnPolicy", policy_kwargs={"features_extractor_kwargs": {"features_dim": 8}})
    first = collect_from_sb3(model, env, 9).episodes[0]
    assert first.observations.shape == (3, 3, 36, 40)
    assert first.observations.dtype == np.uint8


def bad_spaces() -> list[tuple[Any, Any, str]]:
    two, box = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Box(-1.0, 1.0, (3,), np.float32)
    return [
        (spaces.Dict({"a": BOX}), ACTION, "observation space must be a Box.*Dict"),
        (spaces.Discrete(4), ACTION, "observation space must be a Box.*Discrete"),
        (BOX, spaces.MultiDiscrete([2, 2]), "action space must be a Box.*MultiDiscrete"),
        (BOX, spaces.Box(-1, 1, (2, 2), np.float32), "action space must be a Box"),
        (BOX, spaces.Discrete(3, start=1), "Discrete that starts at 0"),
        (two, ACTION, "same observation space"),
        (spaces.Box(0, 9, (3,), np.int64), ACTION, "same observation space"),
        (BOX, two, r"same action space.*\(2,\)"),
        (BOX, box, "same action space"),
        (BOX, spaces.Discrete(2), "same action space"),
    ]


@pytest.mark.parametrize(("observation_space", "action_space", "message"), bad_spaces())
def test_spaces_are_named(observation_space: Any, action_space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect_from_sb3(ppo(CountingEnv()), SpaceEnv(observation_space, action_space), 9)


def test_bad_arguments_are_named() -> None:
    model: Any = ppo(CountingEnv())
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        collect_from_sb3(model, CountingEnv(), 0)
    with pytest.raises(TypeError, match=r"n_steps must be an integer, got 1.5"):
        collect_from_sb3(model, CountingEnv(), 1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"PPO.load\(path\).*got str"):
        collect_from_sb3("agent.zip", CountingEnv(), 9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"env must be a Gymnasium environment.*NoneType"):
        collect_from_sb3(model, None, 9)  # type: ignore[arg-type]


def load_agent(algorithm: Any, name: str, env_id: str) -> Any:
    env = gym.make(env_id)
    custom = {
        "learning_rate": 0.0,
        "lr_schedule": lambda _: 0.0,
        "clip_range": lambda _: 0.1,
        "observation_space": env.observation_space,
        "action_space": env.action_space,
    }
    return algorithm.load(AGENTS / name, custom_objects=custom, device="cpu")


@needs_agents
def test_published_agents_reach_their_returns() -> None:
    hopper = load_agent(TQC, "tqc_hopper.zip", "Hopper-v4")
    buffer = collect_from_sb3(hopper, "Hopper-v4", 1000, deterministic=True, seed=0)
    assert [len(e) for e in buffer.episodes] == [1000]
    assert 3500 < buffer.episodes[0].compute_return() < 3800
    check_dataset(buffer, discrete=False)

    cheetah = load_agent(PPO, "ppo_halfcheetah.zip", "HalfCheetah-v4")
    env = VecNormalize.load(
        str(AGENTS / "ppo_halfcheetah_vecnormalize.pkl"),
        DummyVecEnv([lambda: gym.make("HalfCheetah-v4")]),
    )
    buffer = collect_from_sb3(cheetah, env, 1000, deterministic=True, seed=0)
    assert 5500 < buffer.episodes[0].compute_return() < 6200
    assert np.abs(buffer.episodes[0].observations).max() > 10.0  # normalized ones are clipped there
