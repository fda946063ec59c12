"""Broken numbers are named where Stable-Baselines3 hands them in and takes them out."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from policies.surrogate import tracing

# Values up to which numpy is faster than torch.
SMALL = 4096


def check_finite_observations(obs: PyTorchObs) -> None:
    """Raise ValueError if an observation holds NaN or infinity; the message names where.

    Args:
        obs: [B, ...], or a dict of such tensors.
    """
    if isinstance(obs, dict):
        for key, value in obs.items():
            _check(f"observations[{key!r}]", value)
    else:
        _check("observations", obs)


def all_finite(x: Tensor | NDArray[Any]) -> bool:
    """Whether x holds neither NaN nor infinity."""
    if isinstance(x, Tensor):
        large = x.device.type != "cpu" or x.numel() > SMALL or x.dtype == torch.bfloat16
        if large or tracing():
            return bool(torch.isfinite(x).all())
        x = x.detach().numpy()  # numpy is faster for small ones
    return bool(np.isfinite(x).all())


def _check(name: str, x: Tensor) -> None:
    if all_finite(x):
        return
    finite = torch.isfinite(x)
    where = (~finite).reshape(x.shape[0], -1).any(dim=0).nonzero().flatten().tolist()
    shown = ", ".join(map(str, where[:8])) + (", ..." if len(where) > 8 else "")
    raise ValueError(
        f"{name} must be finite, got NaN or infinity in feature {shown} "
        f"({int((~finite).sum())} of {x.numel()} values); check the environment's output"
    )


def check_finite_output(network: nn.Module, *values: Tensor | NDArray[Any]) -> None:
    """Raise ValueError if a network gives NaN or infinity for sound observations.

    Args:
        network: where the weights are looked through for the culprit.
        *values: what the network gave.
    """
    if all(map(all_finite, values)):
        return
    broken = [name for name, w in network.state_dict().items() if not torch.isfinite(w).all()]
    raise ValueError(
        f"the policy's output is NaN or infinite: {broken or 'none'} of its tensors hold such "
        "values; training has diverged or the file is damaged: go back to an earlier checkpoint "
        "and lower the learning rate"
    )


class CheckedInput:
    """Put before an SB3 network: its observations are checked before it computes anything.

    A replay batch can hold a broken observation that no actor has seen; checked critics refuse it
    before their optimizer steps.
    """

    def extract_features(self, obs: PyTorchObs, *args: Any) -> Tensor:
        """As SB3's, after the check."""
        check_finite_observations(obs)
        network: Any = super()
        features: Tensor = network.extract_features(obs, *args)
        return features
