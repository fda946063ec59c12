"""Episodes that were played: what came of them, and what the machine spent meanwhile."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from policies.energy.meter import EnergyMeter, EnergyReading

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """Episodes of one network.

    Attributes:
        returns: sum of rewards of each episode.
        lengths: decisions of each.
        reading: energy measured meanwhile.
        estimate: energy estimated meanwhile.
        seconds: how long all took.
    """

    returns: tuple[float, ...]
    lengths: tuple[float, ...]
    reading: EnergyReading
    estimate: EnergyReading
    seconds: float


def run_episodes(episode: Callable[[int], tuple[float, float]], episodes: int, seed: int) -> Run:
    """Play episodes while the machine's energy is read.

    Args:
        episode: plays the episode of a seed; gives its return and its decisions.
        episodes: how many.
        seed: of the first; the others count on.
    """
    found = []
    with EnergyMeter(gpus=False) as meter:
        start = time.perf_counter()
        for number in range(episodes):
            found.append(episode(seed + number))
        seconds = time.perf_counter() - start
    returns, lengths = (tuple(float(pair[i]) for pair in found) for i in (0, 1))
    return Run(returns, lengths, meter.reading, meter.estimate, seconds)


class Sample(Generic[T]):
    """A uniform sample of a stream whose length is not known (Vitter's algorithm R).

    Args:
        size: how many are kept.
        seed: of the draws.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[T] = []
        self._size = size
        self._seen = 0
        self._rng = np.random.default_rng(seed)

    def offer(self, make: Callable[[], T]) -> None:
        """Offer the next of the stream, which `make` gives if it is kept."""
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(make())
            return
        place = int(self._rng.integers(0, self._seen))
        if place < self._size:
            self.kept[place] = make()
