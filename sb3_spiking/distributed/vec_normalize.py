"""VecNormalize's statistics, shared between ranks.

Between two exchanges each rank's statistics follow its own environments. An exchange takes what
each has seen since the last one and merges all of it into the statistics of the last exchange.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from policies.distributed import broadcast_object, is_main, world_size

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Number of samples, their mean, and the sum of their squared distances from it."""

    count: float
    mean: Array
    squares: Array

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both sets of samples together."""
        count = self.count + other.count
        if count == 0.0:
            return self
        delta = other.mean - self.mean
        share = other.count / count
        mean = self.mean + delta * share
        squares = self.squares + other.squares + delta**2 * (self.count * share)
        return Moments(count, mean, squares)

    def pack(self) -> Array:
        """As one vector."""
        return np.concatenate([[self.count], self.mean.ravel(), self.squares.ravel()])

    def since(self, before: "Moments") -> "Moments":
        """Moments of the samples that came after `before`."""
        count = self.count - before.count
        if count <= 0.0:
            return Moments(0.0, np.zeros_like(self.mean), np.zeros_like(self.squares))
        mean = (self.count * self.mean - before.count * before.mean) / count
        delta = mean - before.mean
        squares = self.squares - before.squares - delta**2 * (before.count * count / self.count)
        return Moments(count, mean, np.maximum(squares, 0.0))


def take_statistics(env: VecNormalize | None) -> None:
    """Rank 0's statistics, on every rank."""
    if env is None or world_size() == 1:
        return
    mine = (getattr(env, "obs_rms", None), env.ret_rms)
    observations, returns = broadcast_object(mine)
    if not is_main():
        env.ret_rms = returns
        if observations is not None:
            env.obs_rms = observations


class SharedNormalization:
    """The statistics of one VecNormalize.

    Source: Chan, Golub, LeVeque 1983 (merging moments).

    Args:
        env: the wrapper; its statistics must be the same on all ranks now.
    """

    def __init__(self, env: VecNormalize) -> None:
        self._parts: list[RunningMeanStd] = []
        observations: Any = getattr(env, "obs_rms", None)
        if isinstance(observations, dict):
            self._parts += [observations[name] for name in sorted(observations)]
        elif observations is not None:
            self._parts.append(observations)
        self._parts.append(env.ret_rms)
        self._before = [_read(part) for part in self._parts]

    def news(self) -> Array:
        """What this rank has seen since the last exchange, as one vector."""
        pairs = zip(self._parts, self._before, strict=True)
        return np.concatenate([_read(part).since(before).pack() for part, before in pairs])

    def take(self, everyone: Iterable[Array]) -> None:
        """Merge what all ranks have seen, in their order."""
        totals = self._before
        for news in everyone:
            totals = list(map(add, totals, self._unpack(news)))
        for part, total in zip(self._parts, totals, strict=True):
            part.count, part.mean = total.count, total.mean.copy()
            part.var = total.squares / total.count
        self._before = totals

    def _unpack(self, news: Array) -> Iterator[Moments]:
        at = 0
        for before in self._before:
            shape, size = before.mean.shape, before.mean.size
            count, mean, squares = np.split(news[at : at + 1 + 2 * size], [1, 1 + size])
            yield Moments(float(count[0]), mean.reshape(shape), squares.reshape(shape))
            at += 1 + 2 * size


def _read(part: RunningMeanStd) -> Moments:
    mean = np.array(part.mean, np.float64)
    return Moments(float(part.count), mean, np.array(part.var, np.float64) * part.count)
