"""Decisions without the batched network: `predict` of a few observations, and a frozen policy.

A policy says by a `Decision` which network decides and what becomes of its values. `decide` takes
that way where it gives the same action bit for bit (see PopulationBody.by_events); an
`EventDrivenPolicy` takes it always.
"""

import copy
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from policies.actor import PopulationBody
from policies.population import PopulationReadout
from sb3_spiking.faults import check_finite_observations

if TYPE_CHECKING:
    from policies.event_driven import EventDrivenBody, Readout

Floats = NDArray[np.float32]
Finish = Literal["squash", "clip", "class", "value"]


class Decision(NamedTuple):
    """How a policy decides where it does not draw.

    Attributes:
        body: features [B, F] -> activity.
        readout: activity -> values [B, A].
        extractor: observations -> features.
        finish: "squash": tanh, then the action space's bounds; "clip": to these bounds; "class":
            the likeliest of a softmax; "value": the largest.
    """

    body: PopulationBody
    readout: nn.Module
    extractor: nn.Module
    finish: Finish


OURS = ("sb3_spiking", "stable_baselines3", "sb3_contrib")


@cache
def decides_as_written(policy: type) -> bool:
    """Whether a policy class leaves the way from observations to actions as it is here."""
    names = ("_predict", "forward", "obs_to_tensor", "extract_features", "unscale_action")
    return all(
        getattr(policy, name).__module__.split(".")[0] in OURS
        for name in names
        if hasattr(policy, name)
    )


def decide(policy: Any, decision: Decision, observation: Any) -> NDArray[Any] | None:
    """What `predict` would return; None where only the batched network gives that."""
    if type(decision.extractor) is not FlattenExtractor:
        return None
    features = flat_features(observation, policy.observation_space)
    if features is None:
        return None
    obs, vectorized = features
    readout = decision.readout
    with torch.no_grad():
        extractor = decision.extractor
        events = decision.body.by_events(torch.from_numpy(obs), True, readout, extractor)
        if events is None:
            return None
        if isinstance(readout, PopulationReadout):
            from policies.event_driven import live_readout

            values = events.values(obs, live_readout(readout))
        else:
            values = _by_torch(events, readout, obs)
    if values is None:
        return None
    return _finished(values, decision.finish, policy.action_space, vectorized)


def flat_features(observation: Any, space: spaces.Space[Any]) -> tuple[Floats, bool] | None:
    """Flat observations [B, F] of a Box, and whether a batch came; None: SB3 must look at them."""
    # A tuple is a mistake that SB3 explains.
    if type(space) is not spaces.Box or isinstance(observation, tuple | dict):
        return None
    shape = space.shape
    obs = np.asarray(observation)
    if obs.dtype.kind not in "biuf":
        return None
    vectorized = obs.shape != shape
    if vectorized and obs.shape[1:] != shape:
        return None
    if len(shape) == 1:
        rows = obs.reshape(-1, shape[0])
    elif is_image_space(space):
        return None
    else:
        rows = obs.reshape(-1, int(np.prod(shape)))
    return np.ascontiguousarray(rows, np.float32), vectorized


def _by_torch(events: "EventDrivenBody", readout: nn.Module, obs: Floats) -> Floats | None:
    """Values of a readout that is a module; None if something or they are not finite."""
    activity = events.activity(obs)
    if activity is None:
        return None
    values: Floats = readout(torch.from_numpy(activity)).detach().numpy()
    return values if np.isfinite(values).all() else None


def _finished(
    values: Floats, finish: Finish, space: spaces.Space[Any], vectorized: bool
) -> NDArray[Any]:
    """Actions of values; the operations are Stable-Baselines3's, in its order."""
    shared = torch.from_numpy(values)
    actions: NDArray[Any]
    if finish == "class":
        # The softmax is torch's: its rounding may decide between two almost equal logits.
        logits = shared - shared.logsumexp(dim=-1, keepdim=True)
        actions = torch.softmax(logits, dim=-1).argmax(dim=1).numpy()
    elif finish == "value":
        actions = shared.argmax(dim=1).numpy()
    else:
        assert isinstance(space, spaces.Box)
        low, high = space.low, space.high
        actions = values.reshape(-1, *low.shape)
        if finish == "clip":
            actions = np.clip(actions, low, high)
        elif low.dtype == np.float32 and low.ndim == 1:
            from policies.kernels.numba_event import unscale

            shared.tanh_()
            unscale(values, low, high)
        else:
            shared.tanh_()
            actions = low + (0.5 * (actions + 1.0) * (high - low))
    return actions if vectorized else actions.squeeze(axis=0)


class EventDrivenPolicy:
    """A policy as it is now, for acting on one CPU core: `predict` only, always deterministic.

    Each decision costs the weights of the neurons that fired. Under matmul="exact" actions equal
    the policy's own bit for bit; under "float32" and "bf16" a spike may differ now and then. Takes
    the model's place in `evaluate_policy`.

    Args:
        decision: of the policy.
        observation_space: of the policy.
        action_space: of the policy.
        normalize_images: of the policy.
    """

    def __init__(
        self,
        decision: Decision,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        normalize_images: bool = True,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self._normalize_images = normalize_images
        # numba takes its time to import
        from policies.event_driven import EventDrivenBody, live_readout

        self._events = EventDrivenBody(decision.body)
        self._readout = copy.deepcopy(decision.readout).eval().cpu()
        self._arrays: Readout | None = None
        if isinstance(self._readout, PopulationReadout):
            self._arrays = live_readout(self._readout)
        self._finish: Finish = decision.finish
        self._extractor = copy.deepcopy(decision.extractor).eval().cpu()
        self._flat = type(decision.extractor) is FlattenExtractor
        self.device = torch.device("cpu")

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """Action of an observation, or of each of a batch; and `state`, untouched.

        Raises:
            ValueError: if an observation has the wrong shape, or something is NaN or infinite.
        """
        features = flat_features(observation, self.observation_space) if self._flat else None
        obs, vectorized = self._extracted(observation) if features is None else features
        if self._arrays is not None:
            values = self._events.values(obs, self._arrays)
        else:
            values = _by_torch(self._events, self._readout, obs)
        if values is None:
            check_finite_observations(torch.from_numpy(obs))
            raise ValueError(
                "the policy's output is NaN or infinite: its parameters hold such values, or huge "
                "ones; training has diverged or the file is damaged"
            )
        return _finished(values, self._finish, self.action_space, vectorized), state

    @torch.no_grad()
    def _extracted(self, observation: Any) -> tuple[Floats, bool]:
        """As `flat_features`, by SB3's own checks and the policy's extractor."""
        base: Any = self  # it asks for the observation space and the device
        obs, vectorized = BaseModel.obs_to_tensor(base, observation)
        check_finite_observations(obs)
        obs = preprocess_obs(obs, self.observation_space, normalize_images=self._normalize_images)
        features: Tensor = self._extractor(obs)
        return features.numpy(), vectorized
