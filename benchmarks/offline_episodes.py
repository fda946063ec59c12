"""Episodes of a Decision Transformer, several side by side."""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

# Returns to ask for: the first of DSFormer's release for each environment.
TARGETS = {"Hopper-v4": 3600.0, "HalfCheetah-v4": 12000.0, "Walker2d-v4": 5000.0}


def environment(path: Path) -> tuple[str, float]:
    """Id of a dataset's environment, which can be made, and the return to ask it for.

    Args:
        path: an archive of arrays, with env_id, and target if TARGETS has none.

    Raises:
        ValueError: if it names no environment, one that cannot be made, or no target.
    """
    with np.load(path) as arrays:
        if "env_id" not in arrays:
            raise ValueError(f"{path} must name its environment in an array env_id")
        env_id = str(arrays["env_id"])
        target = float(arrays["target"]) if "target" in arrays else TARGETS.get(env_id)
    if target is None:
        raise ValueError(
            f"{path} must hold the return to ask {env_id!r} for in an array target; without one "
            f"only {', '.join(TARGETS)} are known"
        )
    try:
        gymnasium.make(env_id).close()  # type: ignore[no-untyped-call]  # gymnasium's
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(
            f"the environment {env_id!r} of {path} cannot be made ({error}); install it, or write "
            'the dataset anew with an env_id of the form "module:Id", whose module registers it'
        ) from error
    return env_id, target


class Contexts:
    """The contexts of several episodes, padded and scaled as d3rlpy's stateful wrapper does it."""

    def __init__(self, algo: Any, target: float, episodes: int) -> None:
        config, impl = algo.config, algo.impl
        self.network = impl.modules.transformer
        self.config, self.episodes, self.length = config, episodes, config.context_size
        self.steps: deque[tuple[NDArray[Any], ...]] = deque(maxlen=self.length)
        self.last_action = np.zeros((episodes, impl.action_size), np.float32)
        self.rest = np.full(episodes, target)
        self.timestep = 0

    def act(self, obs: NDArray[Any], reward: NDArray[Any]) -> NDArray[Any]:
        """Actions [E, A] after observations [E, O] and the rewards [E] of the last step."""
        self.timestep = min(self.timestep + 1, self.config.max_timestep)
        self.rest = self.rest - reward
        if self.steps:
            last = self.steps.pop()
            self.steps.append((last[0], self.last_action, last[2], last[3]))
        zeros = np.zeros_like(self.last_action)
        # A copy: the caller may fill the same array with the next observations.
        self.steps.append((obs.copy(), zeros, self.rest, np.full(self.episodes, self.timestep)))
        observations, actions, returns, timesteps = (
            np.stack(part, axis=1) for part in zip(*self.steps, strict=True)
        )
        pad = self.length - len(self.steps)
        mask = np.ones((self.episodes, self.length), np.float32)
        mask[:, pad:] = 0.0
        x = torch.as_tensor(_left_pad(observations, pad), dtype=torch.float32)
        rtg = torch.as_tensor(_left_pad(returns[..., None], pad), dtype=torch.float32)
        out = self.network(
            self.config.observation_scaler.transform(x),
            torch.as_tensor(_left_pad(actions, pad), dtype=torch.float32),
            self.config.reward_scaler.transform(rtg),
            torch.as_tensor(_left_pad(timesteps, pad)).long(),
            torch.as_tensor(mask),
        )
        action: NDArray[Any] = out[:, -1].numpy()
        self.last_action = action
        return action


def _left_pad(x: NDArray[Any], pad: int) -> NDArray[Any]:
    return np.pad(x, [(0, 0), (pad, 0), *[(0, 0)] * (x.ndim - 2)])


@dataclass
class Played:
    """One episode: observations [N, O], actions [N, A], rewards [N], and whether it terminated."""

    observations: list[NDArray[Any]] = field(default_factory=list)
    actions: list[NDArray[Any]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False


def evaluate(
    algo: Any, env_id: str, episodes: int, seed: int, target: float | None = None
) -> list[float]:
    """Returns of episodes that run side by side, each in an environment of its own.

    Args:
        algo: a built Decision Transformer with continuous actions.
        env_id: the environment.
        episodes: how many.
        seed: of the first one's reset; the others count on.
        target: return to ask for; None: that of TARGETS.
    """
    target = TARGETS[env_id] if target is None else target
    return [sum(one.rewards) for one in roll_out(algo, env_id, episodes, seed, target)]


@torch.no_grad()
def roll_out(
    algo: Any, env_id: str, episodes: int, seed: int, target: float, noise: float = 0.0
) -> list[Played]:
    """Episodes that run side by side, each in an environment of its own.

    Args:
        algo: a built Decision Transformer with continuous actions.
        env_id: the environment.
        episodes: how many.
        seed: of the first one's reset, the others count on; and of the noise.
        target: return to ask for.
        noise: standard deviation of what is added to actions, before they are clipped to [-1, 1].
    """
    algo.impl.modules.set_eval()
    rng = np.random.default_rng(seed)
    envs = [gymnasium.make(env_id) for _ in range(episodes)]
    contexts = Contexts(algo, target, episodes)
    played = [Played() for _ in envs]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    reward, alive = np.zeros(episodes), np.ones(episodes, bool)
    while alive.any():
        actions = contexts.act(obs, reward)
        if noise:
            drawn = rng.normal(scale=noise, size=actions.shape)
            actions = np.clip(actions + drawn, -1.0, 1.0).astype(np.float32)
            contexts.last_action = actions
        for i in np.flatnonzero(alive):
            played[i].observations.append(obs[i].copy())
            played[i].actions.append(actions[i])
            obs[i], r, terminated, truncated, _ = envs[i].step(actions[i])
            reward[i] = float(r)
            played[i].rewards.append(float(r))
            played[i].terminated = bool(terminated)
            alive[i] = not (terminated or truncated)
    for env in envs:
        env.close()  # type: ignore[no-untyped-call]  # gymnasium's
    return played
