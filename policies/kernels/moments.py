"""Mean and squared deviations of rows, compiled: one pass over memory, in blocks."""

from typing import Any

import numpy as np

from policies.kernels import rows
from policies.kernels.jit import compiled

BLOCK = 16
F0 = np.float32(0.0)


@compiled
def moments(y: Any, valid: Any, mean: Any, squares: Any) -> float:
    """Statistics of the rows whose token is valid; returns their number.

    Args:
        y: [T, M, N], float32 or bfloat16.
        valid: [M], 1 or 0.
        mean: out, [N] float64, starts at 0.
        squares: out, [N] float64, sums of squared deviations, starts at 0.
    """
    steps, tokens, features = y.shape
    # BLOCK rows, their mean and their squared deviations
    work = np.empty((BLOCK + 2, features), np.float32)
    count, held = 0.0, 0
    for t in range(steps):
        for m in range(tokens):
            if valid[m] != F0:
                rows.take(y, t, m, work, held)
                held += 1
            last = t == steps - 1 and m == tokens - 1
            if held == BLOCK or (last and held > 0):
                _of_block(work, held)
                # Chan et al. 1979: two sets of rows make one.
                total = count + held
                _unite(work, held / total, count * held / total, mean, squares)
                count, held = total, 0
    return count


@compiled
def _of_block(work: Any, held: int) -> None:
    mean, spread = BLOCK, BLOCK + 1
    rows.clear(work, mean)
    rows.clear(work, spread)
    for r in range(held):
        rows.add_row(work, r, mean)
    for n in range(work.shape[1]):
        work[mean, n] /= np.float32(held)
    for r in range(held):
        for n in range(work.shape[1]):
            d = work[r, n] - work[mean, n]
            work[spread, n] += d * d


@compiled
def _unite(work: Any, part: float, both: float, mean: Any, squares: Any) -> None:
    for n in range(work.shape[1]):
        delta = work[BLOCK, n] - mean[n]
        mean[n] += delta * part
        squares[n] += work[BLOCK + 1, n] + delta * delta * both
