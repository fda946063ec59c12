"""Episodes of a policy: returns, lengths, energy, and a sample of the observations it visited."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from policies.report.run import Run, Sample, run_episodes
from sb3_spiking.saved.errors import UsageError

# What counts are averaged over, and how many of it at a time.
SAMPLE, BATCH = 2_000, 250
MOST_STEPS = 100_000

States = tuple[NDArray[Any], ...] | None


@dataclass(frozen=True)
class Visit:
    """What a decision was taken on.

    Attributes:
        obs: as `predict` gets it, [1, ...], or a dictionary of such.
        states: of an LSTM before the decision, [layers, 1, H] each; None without one.
        masks: of the actions allowed, [1, A]; None without any.
    """

    obs: Any
    states: States
    masks: NDArray[Any] | None


def play(policy: Any, env: VecEnv, episodes: int, seed: int) -> tuple[Run, tuple[Visit, ...]]:
    """Play episodes deterministically; episode k begins with seed + k.

    Args:
        policy: of Stable-Baselines3.
        env: a single environment, wrapped in Monitor.
        episodes: how many.
        seed: of the first episode's reset.

    Returns:
        the run, and a uniform sample of the decisions.

    Raises:
        UsageError: if the environment fails, an episode does not end, or a reward is not finite.
    """
    sample: Sample[Visit] = Sample(SAMPLE, seed)
    states = initial_states(policy)
    masked = _is_masked(policy, env)
    _warm_up(policy, env, states, masked)

    def keep(visit: Visit) -> None:
        sample.offer(lambda: _copied(visit))

    def episode(seed: int) -> tuple[float, float]:
        return _episode(policy, env, seed, states, masked, keep)

    return run_episodes(episode, episodes, seed), tuple(sample.kept)


def _warm_up(policy: Any, env: VecEnv, states: States, masked: bool) -> None:
    """Decide a few times, so that compiling is not taken for the network's energy."""
    with _in_the_environment():
        obs = env.reset()
    visit = Visit(obs, states, _masks(env) if masked else None)
    for _ in range(3):
        decide(policy, visit)


def watch(policy: Any, env: VecEnv, seed: int, look: Callable[[], None]) -> tuple[float, float]:
    """Play one episode deterministically.

    Args:
        policy: of Stable-Baselines3.
        env: a single environment, wrapped in Monitor.
        seed: of its reset.
        look: called before each decision; what it raises ends the episode.

    Returns:
        return and number of decisions.

    Raises:
        UsageError: as `play`.
    """
    states, masked = initial_states(policy), _is_masked(policy, env)
    return _episode(policy, env, seed, states, masked, lambda visit: look())


def _episode(
    policy: Any,
    env: VecEnv,
    seed: int,
    states: States,
    masked: bool,
    look: Callable[[Visit], None],
) -> tuple[float, float]:
    with _in_the_environment():
        env.seed(seed)
        obs = env.reset()
    for decisions in range(1, MOST_STEPS + 1):
        visit = Visit(obs, states, _masks(env) if masked else None)
        look(visit)
        action, states = decide(policy, visit)
        with _in_the_environment():
            obs, rewards, _, infos = env.step(action)
        _check_reward(float(rewards[0]), seed, decisions)
        # Wrappers may end an episode early (lives) or change rewards: Monitor saw the real ones. It
        # counts frames, of which a wrapper may take several a decision.
        if "episode" in infos[0]:
            _check_reward(float(infos[0]["episode"]["r"]), seed, decisions)
            return float(infos[0]["episode"]["r"]), float(decisions)
    raise UsageError(
        f"an episode took more than {MOST_STEPS} steps: give the environment a limit, for instance "
        "with --env-kwargs max_episode_steps:1000"
    )


@contextmanager
def _in_the_environment() -> Iterator[None]:
    """What fails inside is the environment, or what it was given."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"the environment failed ({type(error).__name__}: {error}); see to it and to "
            "--env-kwargs, or find the place with --traceback"
        ) from error


def _check_reward(reward: float, seed: int, decisions: int) -> None:
    if not math.isfinite(reward):
        raise UsageError(
            f"the environment gave the reward {reward} after {decisions} decisions of the episode "
            f"with seed {seed}: returns need rewards that are finite; see to the environment"
        )


def _masks(env: VecEnv) -> NDArray[Any]:
    return np.stack(env.env_method("action_masks"))


def decide(policy: Any, visit: Visit) -> tuple[NDArray[Any], States]:
    """One deterministic decision."""
    kwargs: dict[str, Any] = {} if visit.masks is None else {"action_masks": visit.masks}
    if visit.states is not None:
        # The states are those of this very decision, also at an episode's start.
        kwargs |= {"state": visit.states, "episode_start": np.zeros(1, bool)}
    action, states = policy.predict(visit.obs, deterministic=True, **kwargs)
    return action, None if visit.states is None else states


def initial_states(policy: Any) -> States:
    """States of an LSTM at an episode's start, [layers, 1, H] each; None without one."""
    lstm = getattr(policy, "lstm_actor", None)
    if lstm is None:
        return None
    zeros = np.zeros((lstm.num_layers, 1, lstm.hidden_size), np.float32)
    return zeros, zeros


def _is_masked(policy: Any, env: VecEnv) -> bool:
    """Whether predict takes the masks of the actions allowed, and the environment has them."""
    takes = any("maskable" in kind.__module__.split(".") for kind in type(policy).__mro__)
    return takes and env.has_attr("action_masks")


def _copied(visit: Visit) -> Visit:
    obs = visit.obs
    if isinstance(obs, dict):
        return Visit({name: part.copy() for name, part in obs.items()}, visit.states, visit.masks)
    return Visit(obs.copy(), visit.states, visit.masks)


def batches(visits: Sequence[Visit]) -> Iterator[tuple[Any, ...]]:
    """Inputs of `ActingNetwork`: observations, and states where there are any."""
    for start in range(0, len(visits), BATCH):
        yield _inputs(visits[start : start + BATCH])


def batch(policy: Any, visits: Sequence[Visit]) -> tuple[Any, tuple[Tensor, Tensor] | None]:
    """Observations as a policy's networks take them, and an LSTM's states; None without one."""
    obs, *states = _inputs(visits)
    if isinstance(obs, dict):
        obs = {name: part.to(policy.device) for name, part in obs.items()}
    else:
        obs = obs.to(policy.device)
    if not states:
        return obs, None
    hidden, cell = (state.to(policy.device) for state in states)
    return obs, (hidden, cell)


def _inputs(visits: Sequence[Visit]) -> tuple[Any, ...]:
    first = visits[0].obs
    obs: Any
    if isinstance(first, dict):
        obs = {name: _joined([visit.obs[name] for visit in visits]) for name in first}
    else:
        obs = _joined([visit.obs for visit in visits])
    states = [visit.states for visit in visits if visit.states is not None]
    return obs, *(
        torch.from_numpy(np.concatenate([state[i] for state in states], axis=1))
        for i in range(2 if states else 0)
    )


def _joined(parts: list[NDArray[Any]]) -> Tensor:
    return torch.as_tensor(np.concatenate(parts))
