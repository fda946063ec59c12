"""Episodes of a transformer algorithm in an environment."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from d3rlpy.algos import GreedyTransformerActionSampler
from d3rlpy.constants import ActionSpace

from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.datasets import d4rl_score
from d3rlpy_spiking.datasets.spaces import describe_action_space


@dataclass(frozen=True)
class Episodes:
    """How to evaluate.

    Args:
        env: id of the environment.
        target_return: return to ask for.
        count: number of episodes.
        seed: seed of the first episode's reset; the others count on.
    """

    env: str
    target_return: float
    count: int
    seed: int

    def check(self, observation_shape: tuple[int, ...], discrete: bool, action_size: int) -> None:
        """Raise unless the environment exists and is of the algorithm's shapes.

        Raises:
            UsageError: naming what differs.
        """
        env = make_env(self.env)
        shape = env.observation_space.shape
        kind, size = describe_action_space(env.action_space)
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
        if shape != observation_shape:
            raise UsageError(
                f"{self.env} has observations of shape {shape}, the algorithm is for "
                f"{observation_shape}; take the environment of its dataset"
            )
        if (kind == ActionSpace.DISCRETE, size) != (discrete, action_size):
            raise UsageError(
                f"{self.env} has {size} {kind.name.lower()} actions, the algorithm is for "
                f"{action_size} {'discrete' if discrete else 'continuous'} ones; take the "
                "environment of its dataset"
            )

    def run(self, algo: Any) -> dict[str, Any]:
        """Act in the episodes, greedily where actions are discrete.

        Returns:
            what was asked for, the return of each episode, their mean and standard deviation, and
            D4RL's normalized score of the mean, None where D4RL has no reference.
        """
        discrete = algo.get_action_type() == ActionSpace.DISCRETE
        sampler = GreedyTransformerActionSampler() if discrete else None
        actor = algo.as_stateful_wrapper(self.target_return, sampler)
        env = make_env(self.env)
        returns = [_episode(actor, env, self.seed + i) for i in range(self.count)]
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
        mean = float(np.mean(returns))
        return {
            "env": self.env,
            "target_return": self.target_return,
            "episodes": self.count,
            "seed": self.seed,
            "returns": returns,
            "mean": mean,
            "sd": float(np.std(returns)),
            "d4rl_score": _score(self.env, mean),
        }


def make_env(name: str) -> gymnasium.Env[Any, Any]:
    """The environment of an id.

    Raises:
        UsageError: if there is none, or a package that it needs is missing.
    """
    try:
        return gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise UsageError(f"the environment {name!r} cannot be made: {error}") from error


def _episode(actor: Any, env: gymnasium.Env[Any, Any], seed: int) -> float:
    """The return of one episode."""
    actor.reset()
    obs, _ = env.reset(seed=seed)
    reward, total, done = 0.0, 0.0, False
    while not done:
        # A copy: the wrapper keeps what it is given, and an environment may reuse its array.
        action = actor.predict(np.array(obs), reward)
        obs, last, terminated, truncated, _ = env.step(action)
        reward = float(last)
        total += reward
        done = terminated or truncated
    return total


def _score(env: str, mean: float) -> float | None:
    try:
        return d4rl_score(env, mean)
    except ValueError:
        return None


def print_episodes(result: dict[str, Any]) -> None:
    """Print mean, standard deviation and score of a result of `Episodes.run`."""
    line = (
        f"{result['env']}: mean return {result['mean']:.2f}, sd {result['sd']:.2f} over "
        f"{result['episodes']} episodes (target return {result['target_return']:g})"
    )
    print(line)
    if result["d4rl_score"] is not None:
        print(f"D4RL-normalized score {result['d4rl_score']:.1f}")
