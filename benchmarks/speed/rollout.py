"""PPO's rollouts in 8 environments: steps per second, spiking against dense."""

from collections.abc import Callable
from importlib.util import find_spec

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import sb3_spiking
from benchmarks.speed import choices
from benchmarks.speed.choices import Choice
from benchmarks.speed.envs import RandomControl
from benchmarks.speed.harness import Call, Options, race
from benchmarks.speed.table import Goal, Section

ENVS, STEPS = 8, 32
DENSE = "SB3's dense PPO"
GOAL = Goal(0.7)


def environments(quick: bool) -> dict[str, str | Callable[[], gym.Env]]:  # type: ignore[type-arg]
    """Environments by name; HalfCheetah where MuJoCo is installed."""
    if quick:
        return {"CartPole-v1": "CartPole-v1"}
    found: dict[str, str | Callable[[], gym.Env]] = {  # type: ignore[type-arg]
        "CartPole-v1": "CartPole-v1",
        "Pendulum-v1": "Pendulum-v1",
        "HalfCheetah's sizes, no physics": RandomControl,
    }
    if find_spec("mujoco") is not None:
        found["HalfCheetah-v4"] = "HalfCheetah-v4"
    return found


def collecting(policy: str, env: str | Callable[[], gym.Env], choice: Choice | None) -> Call:  # type: ignore[type-arg]
    """Fill PPO's buffer once: ENVS * STEPS transitions."""
    kwargs = {} if choice is None else choice.kwargs(sb3_spiking.options.SpikingOptions)
    model = PPO(
        policy,
        make_vec_env(env, ENVS, seed=0),
        n_steps=STEPS,
        batch_size=ENVS * STEPS,
        policy_kwargs=dict(kwargs),
        seed=0,
        device="cpu",
    )
    _, callback = model._setup_learn(10**9)
    assert model.env is not None
    vec_env = model.env
    return lambda: model.collect_rollouts(vec_env, callback, model.rollout_buffer, STEPS)


def run(options: Options) -> list[Section]:
    """The table of this group."""
    section = Section(
        f"PPO rollout, {ENVS} environments",
        f"steps per second relative to {DENSE}",
        unit="steps/s",
        direction="time",
        notes=["DummyVecEnv; collect_rollouts alone, net_arch as SB3's default (64-64)."],
    )
    spiking = list(choices.plain(sb3_spiking.options.SpikingOptions))
    for name, env in environments(options.quick).items():
        try:
            dense = collecting("MlpPolicy", env, None)
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            section.skip(DENSE, name, f"not run: {error}")
            continue
        calls = {c.label: collecting("SpikingPopPolicy", env, c) for c in spiking}
        calls[DENSE] = dense
        times = race(calls, options.repeats)
        rates = {row: 1e3 * ENVS * STEPS / ms for row, ms in times.items()}
        for row, rate in rates.items():
            ours = row != DENSE
            reference = rates[DENSE] if ours else None
            section.add(row, name, rate, reference, GOAL if ours else None)
    return [section]
