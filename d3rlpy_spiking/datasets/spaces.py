"""Action spaces: Gymnasium's, and what d3rlpy calls them."""

from typing import Any, Literal

import numpy as np
from d3rlpy.constants import ActionSpace
from d3rlpy.preprocessing import MinMaxActionScaler
from gymnasium.spaces import Box, Discrete

ActionSpaceName = Literal["continuous", "discrete"]

_BY_NAME = {"continuous": ActionSpace.CONTINUOUS, "discrete": ActionSpace.DISCRETE}
NAMES = {kind: name for name, kind in _BY_NAME.items()}


def as_action_space(value: Any) -> ActionSpace:
    """d3rlpy's ActionSpace for its name, or for itself.

    Raises:
        ValueError: if value is neither continuous nor discrete.
    """
    kind = _BY_NAME.get(value, value) if isinstance(value, str) else value
    if kind not in NAMES:
        raise ValueError(
            f"action_space must be one of {list(_BY_NAME)} or d3rlpy's ActionSpace.CONTINUOUS or "
            f"ActionSpace.DISCRETE, got {value!r}"
        )
    return kind


def describe_action_space(space: Any) -> tuple[ActionSpace, int]:
    """Kind and size of a Gymnasium action space: its dimensions, or its number of actions.

    Raises:
        ValueError: if d3rlpy has no such action space.
    """
    if isinstance(space, Box) and len(space.shape) == 1:
        return ActionSpace.CONTINUOUS, int(space.shape[0])
    if isinstance(space, Discrete) and space.start == 0:
        return ActionSpace.DISCRETE, int(space.n)
    raise ValueError(
        "the action space must be a Box with one axis or a Discrete that starts at 0, which is "
        f"what d3rlpy trains on, got {space}; wrap the environment to such a space"
    )


def action_scaler(space: Any) -> MinMaxActionScaler | None:
    """The `action_scaler` that a d3rlpy config needs for actions of this space.

    Datasets keep the environment's units; d3rlpy's continuous algorithms work in [-1, 1] and leave
    the translation to the scaler:

        DSFormerConfig(action_scaler=action_scaler(env.action_space))

    Args:
        space: the environment's action space.

    Returns:
        d3rlpy's MinMaxActionScaler with the space's bounds; None if they are [-1, 1] already, or if
        the space is discrete.

    Raises:
        ValueError: if the space is neither a Box with one axis nor Discrete, or a bound is infinite
            or equal to its opposite.
    """
    kind, _ = describe_action_space(space)
    if kind == ActionSpace.DISCRETE:
        return None
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    if np.all(low == -1.0) and np.all(high == 1.0):
        return None
    usable = np.isfinite(low) & np.isfinite(high) & (low < high)
    if not usable.all():
        index = int(np.argmin(usable))
        raise ValueError(
            f"action dimension {index} is bounded by [{low[index]}, {high[index]}], which cannot "
            "be scaled to [-1, 1]; use MinMaxActionScaler(minimum=..., maximum=...) with finite "
            "bounds that hold your data"
        )
    return MinMaxActionScaler(minimum=low, maximum=high)
