"""Episodes of a transformer, and a sample of the contexts that it decided on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from d3rlpy.algos import (
    GreedyTransformerActionSampler,
    IdentityTransformerActionSampler,
    StatefulTransformerWrapper,
    TransformerInput,
)
from d3rlpy.algos.transformer.inputs import TorchTransformerInput
from d3rlpy.constants import ActionSpace
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from gymnasium import Env
from torch import Tensor, cat, zeros_like

from d3rlpy_spiking.cli.errors import UsageError
from policies.report.run import Run, Sample, run_episodes

# A context is many tokens: fewer of them than of single observations, and fewer at a time.
SAMPLE, BATCH = 200, 50
MOST_STEPS = 100_000
# Steps of the episode that is decided on again for its time.
TIMED = 200

Stream = list[tuple[Any, float]]


class _Recorder:
    """Stands for an algorithm in d3rlpy's wrapper; offers each context to samples.

    Args:
        algo: decides.
        full: sample of contexts without padding.
        short: sample of the others.
    """

    def __init__(
        self, algo: Any, full: Sample[TransformerInput], short: Sample[TransformerInput]
    ) -> None:
        self._algo = algo
        self._full = full
        self._short = short

    def __getattr__(self, name: str) -> Any:
        return getattr(self._algo, name)

    def predict(self, inpt: TransformerInput) -> Any:
        """As the algorithm's."""
        whole = inpt.length >= self._algo.config.context_size
        (self._full if whole else self._short).offer(lambda: inpt)
        return self._algo.predict(inpt)


def make_actor(algo: Any, target_return: float) -> Any:
    """d3rlpy's stateful wrapper, greedy where actions are discrete."""
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    sampler = GreedyTransformerActionSampler() if discrete else IdentityTransformerActionSampler()
    return StatefulTransformerWrapper(algo, target_return, sampler)


def play(
    algo: Any, env: Env[Any, Any], target_return: float, episodes: int, seed: int
) -> tuple[Run, list[TransformerInput], Stream]:
    """Play episodes; episode k begins with seed + k.

    Returns:
        the run; a uniform sample of its contexts, of full ones if there were any; and observations
        and rewards of the last episode's first steps.

    Raises:
        UsageError: if an episode does not end, or a reward is NaN or infinite.
    """
    full: Sample[TransformerInput] = Sample(SAMPLE, seed)
    short: Sample[TransformerInput] = Sample(SAMPLE, seed)
    actor = make_actor(_Recorder(algo, full, short), target_return)
    stream: Stream = []
    # Compiling is not to be taken for the network's energy.
    make_actor(algo, target_return).predict(np.array(env.reset(seed=seed)[0]), 0.0)

    def episode(seed: int) -> tuple[float, float]:
        stream.clear()
        return _episode(actor, env, seed, stream)

    run = run_episodes(episode, episodes, seed)
    return run, full.kept or short.kept, stream


def _episode(actor: Any, env: Env[Any, Any], seed: int, stream: Stream) -> tuple[float, float]:
    actor.reset()
    obs, _ = env.reset(seed=seed)
    reward, total = 0.0, 0.0
    for step in range(1, MOST_STEPS + 1):
        # A copy: the wrapper keeps what it is given, and an environment may reuse its array.
        seen = np.array(obs)
        if len(stream) < TIMED:
            stream.append((seen, reward))
        obs, last, terminated, truncated, _ = env.step(actor.predict(seen, reward))
        reward = float(last)
        if not math.isfinite(reward):
            raise UsageError(
                f"the environment gave the reward {reward} after {step} decisions of the episode "
                f"with seed {seed}: returns need rewards that are finite; see to the environment"
            )
        total += reward
        if terminated or truncated:
            return total, float(step)
    raise UsageError(
        f"an episode took more than {MOST_STEPS} steps: register the environment with "
        "max_episode_steps"
    )


def decider(algo: Any, target_return: float, stream: Stream) -> Callable[[], object]:
    """Takes one decision a call, through the same steps again and again."""
    actor = make_actor(algo, target_return)

    def decisions() -> Iterator[object]:
        while True:
            actor.reset()
            for obs, reward in stream:
                yield actor.predict(obs, reward)

    turns = decisions()
    return lambda: next(turns)


def batches(algo: Any, contexts: list[TransformerInput]) -> Iterator[TorchTrajectoryMiniBatch]:
    """Contexts as `count_operations` takes them, padded and scaled as d3rlpy's `predict` does."""
    config = algo.config
    rows = [
        TorchTransformerInput.from_numpy(
            inpt,
            config.context_size,
            "cpu",
            config.observation_scaler,
            config.action_scaler,
            config.reward_scaler,
        )
        for inpt in contexts
    ]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        returns = _joined(part, "returns_to_go")
        yield TorchTrajectoryMiniBatch(
            observations=_joined(part, "observations"),
            actions=_actions(part),
            rewards=_joined(part, "rewards"),
            returns_to_go=returns,
            terminals=zeros_like(returns),
            timesteps=_joined(part, "timesteps"),
            masks=_joined(part, "masks"),
            device="cpu",
        )


def _joined(rows: list[TorchTransformerInput], name: str) -> Any:
    first = getattr(rows[0], name)
    if isinstance(first, Tensor):
        return cat([getattr(row, name) for row in rows])
    return [cat([getattr(row, name)[i] for row in rows]) for i in range(len(first))]


def _actions(rows: list[TorchTransformerInput]) -> Tensor:
    """[B, L, A], or indices [B, L, 1]."""
    actions: Tensor = _joined(rows, "actions")
    return actions if actions.dim() == 3 else actions.unsqueeze(-1)
