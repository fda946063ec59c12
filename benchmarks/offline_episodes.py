"""Episodes of a Decision Transformer, several side by side."""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

# Returns to ask for: the first of DSFormer's release for each environment.
TARGETS = {"Hopper-v4": 3600.0, "HalfCheetah-v4": 12000.0, "Walker2d-v4": 5000.0}


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


@torch.no_grad()
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
    algo.impl.modules.set_eval()
    envs = [gymnasium.make(env_id) for _ in range(episodes)]
    contexts = Contexts(algo, TARGETS[env_id] if target is None else target, episodes)
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    reward, total, alive = np.zeros(episodes), np.zeros(episodes), np.ones(episodes, bool)
    while alive.any():
        actions = contexts.act(obs, reward)
        for i in np.flatnonzero(alive):
            obs[i], r, terminated, truncated, _ = envs[i].step(actions[i])
            reward[i], total[i] = float(r), total[i] + float(r)
            alive[i] = not (terminated or truncated)
    for env in envs:
        env.close()  # type: ignore[no-untyped-call]  # gymnasium's
    return [float(value) for value in total]
