"""Timing of calls that take turns, so that a busy machine slows all of them alike."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]
# ms by round, [rounds]
Times = NDArray[np.float64]

# A turn repeats a short call until about this many seconds: the clock's own cost and the caches
# that the call before left behind weigh little.
TURN_S = 1e-3


@dataclass(frozen=True)
class Options:
    """How much to measure.

    Attributes:
        repeats: rounds of turns, >= 1.
        quick: smallest sizes and fewest rivals; the figures mean nothing.
        kept: the process keeps freed memory; see allocator.
    """

    repeats: int = 20
    quick: bool = False
    kept: bool = False


def race(
    calls: Mapping[str, Call], repeats: int, finish: Call = lambda: None, turn_s: float = TURN_S
) -> dict[str, Times]:
    """Time of each call in each round, in ms; all take turns, in an order drawn anew.

    Args:
        calls: what to time, by name; each is called a few times beforehand.
        repeats: rounds.
        finish: called before each reading of the clock; on a GPU, waits for it.
        turn_s: about how long a turn lasts at least, s.
    """
    order = list(calls)
    counts = {name: _turn_length(calls[name], finish, turn_s) for name in order}
    times: dict[str, list[float]] = {name: [] for name in order}
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for _ in range(repeats):
            shuffle(order)
            for name in order:
                times[name].append(_seconds(calls[name], counts[name], finish))
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return {name: 1e3 * np.array(times[name]) for name in calls}


def _turn_length(call: Call, finish: Call, turn_s: float) -> int:
    """Calls in a turn; the first calls, which may compile, do not count."""
    fastest = min(_seconds(call, 1, finish) for _ in range(2))
    if fastest < turn_s:  # other calls are too slow to be asked more than twice
        fastest = min(_seconds(call, 1, finish) for _ in range(10))
    return max(1, round(turn_s / fastest))


def _seconds(call: Call, count: int, finish: Call) -> float:
    """Mean time of `count` calls in a row, s."""
    finish()
    start = time.perf_counter()
    for _ in range(count):
        call()
    finish()
    return (time.perf_counter() - start) / count
