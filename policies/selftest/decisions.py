"""Whether a policy takes the decisions that it took, apart from rounding.

A return forgives much: a trained Pendulum with another membrane decay swings up as well. Decisions
do not, and need no statistics: the first ones of each episode are on record, before a difference in
rounding has grown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Decisions of an episode that are on record.
OPENING = 10
# Of the largest action on record; one spike of an output neuron moves an action by more.
_TOLERANCE = 1e-3
# Of the decisions. Beside them, three times as many may differ as did when the file was packed.
_SPARE = 0.05
_LEAST = 0.5

Decision = tuple[float, ...]


@dataclass(frozen=True)
class Played:
    """An episode.

    Attributes:
        total: its return.
        opening: its first decisions, at most `OPENING`, each flat.
    """

    total: float
    opening: tuple[Decision, ...]


def share_alike(recorded: Sequence[Sequence[Decision]], played: Sequence[Played]) -> float:
    """Part of the recorded decisions that were taken again, in [0, 1].

    Args:
        recorded: of each episode.
        played: the same episodes; more on record are left out.
    """
    pairs = list(zip(recorded, (episode.opening for episode in played), strict=False))
    actions = [np.abs(decision).max(initial=0.0) for own, _ in pairs for decision in own]
    tolerance = _TOLERANCE * max(actions, default=0.0)
    alike = sum(
        bool(np.allclose(one, other, rtol=0.0, atol=tolerance))
        for own, theirs in pairs
        for one, other in zip(own, theirs, strict=False)  # an episode may have ended
    )
    return alike / max(len(actions), 1)


def share_needed(worst: float) -> float:
    """The share that a sound installation reaches.

    Args:
        worst: the lowest share among replays with weights that were changed by rounding's size.
    """
    return max(1.0 - 3.0 * (1.0 - worst) - _SPARE, _LEAST)
