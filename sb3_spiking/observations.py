"""Observations that training has met, lately and ever, kept small."""

from collections import deque
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

Memory = tuple[Tensor, Tensor] | None
# What the policy gets at a step: observations [n_envs, ...] and an LSTM's state, if it has one.
_Step = tuple[Any, Memory]


class MetObservations:
    """Observations of the last environment steps and of all, thinned out evenly, and an episode's.

    Args:
        samples: observations to keep of the last steps, and as many of all.
        window: the last environment steps.
        episode: steps of an episode to keep, from its start.
    """

    def __init__(self, samples: int, window: int, episode: int) -> None:
        self._samples = samples
        self._window = window
        self._episode_steps = episode
        self._kept: deque[_Step] | None = None
        self._stride = 1
        # of all steps, each _wide_stride-th
        self._wide: list[_Step] = []
        self._wide_stride = 1
        self._calls = 0
        self._current: list[_Step] = []
        self._finished: list[_Step] = []

    def __len__(self) -> int:
        """Observations kept."""
        return 0 if not self._kept else sum(_rows(obs) for obs, _ in self._kept)

    def take(self, model: BaseAlgorithm, local: dict[str, Any]) -> None:
        """Look at a step of training; to be called from a callback's `_on_step`.

        Args:
            model: the algorithm that trains.
            local: the callback's `locals`.
        """
        obs, memory = _next_observations(model, local), _memory(local)
        if obs is None or not _is_finite(obs):
            return
        self._follow_episode(obs, memory, local)
        obs, memory = _some_environments(obs, memory, self._samples)
        if self._kept is None:
            per_step = _rows(obs)
            steps = max(1, self._samples // per_step)
            self._stride = max(1, self._window // (per_step * steps))
            self._kept = deque(maxlen=steps)
        # The first steps are all kept, until there is something to thin out.
        if self._calls % self._stride == 0 or len(self._kept) < (self._kept.maxlen or 0):
            self._kept.append((_copy(obs), memory))
        if self._calls % self._wide_stride == 0:
            self._wide.append((_copy(obs), memory))
            if len(self._wide) > 2 * (self._kept.maxlen or 1):
                self._wide = self._wide[::2]
                self._wide_stride *= 2
        self._calls += 1

    def _follow_episode(self, obs: Any, memory: Memory, local: dict[str, Any]) -> None:
        """Keep the first environment's episode."""
        done = local.get("dones")
        if done is not None and bool(np.asarray(done)[0]):
            self._finished, self._current = self._current, []
        if len(self._current) < self._episode_steps:
            state = None if memory is None else (memory[0][:, :1], memory[1][:, :1])
            self._current.append((_copy(_first(obs)), state))

    def batch(self, policy: BasePolicy) -> tuple[PyTorchObs, Memory]:
        """Observations of the last steps, as the policy takes them."""
        return _join(policy, list(self._kept or ()))

    def all_batch(self, policy: BasePolicy) -> tuple[PyTorchObs, Memory]:
        """Observations of the last steps and of all others."""
        steps = 1 if self._kept is None else self._kept.maxlen or 1
        return _join(policy, [*(self._kept or ()), *_thin(self._wide, steps)])

    def episode(self, policy: BasePolicy) -> tuple[PyTorchObs, Memory] | None:
        """The start of the last finished episode, or of a long one that still runs."""
        steps = self._finished
        if not steps and len(self._current) >= self._episode_steps:
            steps = self._current
        return _join(policy, steps) if len(steps) > 1 else None


def _next_observations(model: BaseAlgorithm, local: dict[str, Any]) -> Any:
    """What the policy will see next, [n_envs, ...]; None where it cannot be known."""
    if "new_obs" in local:
        return local["new_obs"]
    # ARS plays episodes in a function of its own, whose variables a callback does not see.
    env = model.get_env()
    inner = None if env is None else env.unwrapped
    if not isinstance(inner, DummyVecEnv):
        return None
    obs = inner._obs_from_buf()
    if isinstance(env, VecNormalize) and env.venv is inner and not isinstance(obs, tuple):
        return env.normalize_obs(obs)
    # Other wrappers, such as stacked frames, would have to be asked for what they have made of it.
    return obs if env is inner else None


def _is_finite(obs: Any) -> bool:
    """Whether observations are; the policy names others itself, once it has to decide on them."""
    parts = obs.values() if isinstance(obs, dict) else [obs]
    return all(x.dtype.kind != "f" or bool(np.isfinite(x).all()) for x in parts)


def _some_environments(obs: Any, memory: Memory, most: int) -> _Step:
    """Of many environments an even choice."""
    rows = _rows(obs)
    if rows <= most:
        return obs, memory
    chosen = np.linspace(0, rows - 1, most).astype(int)
    if isinstance(obs, dict):
        obs = {key: x[chosen] for key, x in obs.items()}
    else:
        obs = obs[chosen]
    return obs, None if memory is None else (memory[0][:, chosen], memory[1][:, chosen])


def _memory(local: dict[str, Any]) -> Memory:
    """The actor's LSTM state before it sees the next observation."""
    states = local.get("lstm_states")
    if states is None:
        return None
    hidden, cell = (state.detach().clone() for state in states.pi)
    ended = torch.as_tensor(np.asarray(local["dones"], dtype=bool), device=hidden.device)
    keep = (~ended).to(hidden.dtype).view(1, -1, 1)
    return hidden * keep, cell * keep


def _join(policy: BasePolicy, steps: list[_Step]) -> tuple[PyTorchObs, Memory]:
    parts = [obs for obs, _ in steps]
    joined: Any
    if isinstance(policy.observation_space, spaces.Dict):
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    else:
        joined = np.concatenate(parts)
    obs, _ = policy.obs_to_tensor(joined)
    memories = [memory for _, memory in steps if memory is not None]
    if not memories:
        return obs, None
    hidden = torch.cat([memory[0] for memory in memories], dim=1)
    return obs, (hidden, torch.cat([memory[1] for memory in memories], dim=1))


def _rows(obs: Any) -> int:
    return len(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs)


def _copy(obs: Any) -> Any:
    return {key: np.array(x) for key, x in obs.items()} if isinstance(obs, dict) else np.array(obs)


def _first(obs: Any) -> Any:
    return {key: x[:1] for key, x in obs.items()} if isinstance(obs, dict) else obs[:1]


def _thin(steps: list[_Step], most: int) -> list[_Step]:
    return steps[:: -(-len(steps) // most)] if steps else []
