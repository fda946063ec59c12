"""The derivatives of `policies.surrogate` over a row of charged membranes, compiled."""

import math
from typing import Any

import numpy as np

from policies.kernels.jit import compiled
from policies.surrogate import SURROGATES

RECTANGLE, SIGMOID, ARCTAN, TRIANGLE = (
    SURROGATES.index(name) for name in ("rectangle", "sigmoid", "arctan", "triangle")
)
F0, F1, F2, F4 = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(4.0)
PI = np.float32(math.pi)


@compiled
def slopes(work: Any, charged: int, neuron: Any, to: int) -> None:
    """work[to] = derivative at work[charged] - threshold; neuron is a normed_lif.Neuron."""
    threshold, width, kind = neuron.threshold, neuron.width, neuron.kind
    if kind == RECTANGLE:
        half, height = width / F2, F1 / width
        for n in range(work.shape[1]):
            work[to, n] = height if abs(work[charged, n] - threshold) < half else F0
    elif kind == TRIANGLE:
        for n in range(work.shape[1]):
            rest = F1 - abs(work[charged, n] - threshold) / width
            work[to, n] = (rest if rest > F0 else F0) / width
    elif kind == ARCTAN:
        steep = PI / width
        for n in range(work.shape[1]):
            x = steep * (work[charged, n] - threshold)
            work[to, n] = F1 / (width * (F1 + x * x))
    else:
        steep = F4 / width
        for n in range(work.shape[1]):
            s = F1 / (F1 + np.float32(math.exp(-steep * (work[charged, n] - threshold))))
            work[to, n] = steep * s * (F1 - s)
