"""Decisions at a cost that does not grow with the context: a stateful wrapper with a cache."""

import copy
import dataclasses
from collections import deque
from typing import Any

import numpy as np
import torch
from d3rlpy.algos import (
    IdentityTransformerActionSampler,
    SoftmaxTransformerActionSampler,
    TransformerActionSampler,
)
from d3rlpy.constants import ActionSpace
from d3rlpy.models.torch.transformers import GlobalPositionEncoding
from d3rlpy.torch_utility import convert_to_torch, convert_to_torch_recursively
from d3rlpy.types import NDArray, Observation
from torch import Tensor

from d3rlpy_spiking.decision_transformer import TOKENS_PER_STEP
from d3rlpy_spiking.transformer import JointTokenTransformer, SpikingNetwork, Step
from policies.config import check_count
from policies.incremental import IncrementalTransformer
from policies.kernels.choice import Kernel


class IncrementalWrapper:
    """Used as d3rlpy's `as_stateful_wrapper`: `predict(x, reward)` at every step, then `reset()`.

    Each decision runs the new tokens alone and reads earlier ones from a cache. It equals the
    network on the steps in the context, at positions from 0 and without padding; d3rlpy's wrapper
    pads on the left, so PSSA's weights of other positions apply there, and drops steps one by one.
    When the context is full, the newest `keep` steps are run again and the context grows anew from
    there: a decision sees between `keep` and `context_size` steps.

    The network is copied: after more training, make a new wrapper.

    Args:
        algo: a spiking transformer algorithm, built.
        target_return: return to reach.
        action_sampler: None: the action itself, or one drawn from the logits, as in d3rlpy.
        keep: steps kept when the context is full; None: half of it.
        kernel: None: the config's.

    Raises:
        ValueError: if nothing is built, keep is out of range, or positions count from the newest
            step (position_encoding_type="global"), which changes every token at every step.
    """

    def __init__(
        self,
        algo: Any,
        target_return: float,
        action_sampler: TransformerActionSampler | None = None,
        keep: int | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        if algo.impl is None:
            raise ValueError("nothing to run yet: train or load the algorithm first")
        self._algo = algo
        self._target_return = target_return
        self._discrete = algo.get_action_type() == ActionSpace.DISCRETE
        default = SoftmaxTransformerActionSampler if self._discrete else _identity
        self._action_sampler = default() if action_sampler is None else action_sampler
        network: SpikingNetwork = copy.deepcopy(algo.impl.network).eval().requires_grad_(False)
        if any(isinstance(m, GlobalPositionEncoding) for m in network.modules()):
            raise ValueError(
                "position_encoding_type='global' cannot be cached: it places every token anew at "
                "every step; train with position_encoding_type=PositionEncodingType.SIMPLE, or use "
                "as_stateful_wrapper"
            )
        steps = algo.config.context_size
        keep = max(1, steps // 2) if keep is None else keep
        check_count("keep", keep)
        if keep > steps == 1:
            raise ValueError(f"keep must be 1 where the context is one step, got {keep}")
        if keep >= steps > 1:
            raise ValueError(
                f"keep must be below the context of {steps} steps, got {keep}; half of it is a "
                "good choice"
            )
        tokens = 1 if isinstance(network, JointTokenTransformer) else TOKENS_PER_STEP
        self._network = network
        # One step alone leaves nothing to keep, whatever its tokens.
        self._single = steps == 1
        self._transformer = IncrementalTransformer(
            network.backbone.transformer, 1 if self._single else keep * tokens, kernel
        )
        # the newest steps, as many as a full context keeps
        self._kept: deque[Step] = deque(maxlen=keep)
        self.reset()

    @property
    def algo(self) -> Any:
        """The algorithm that this was made from."""
        return self._algo

    def reset(self) -> None:
        """Begin a new episode."""
        self._transformer.reset()
        self._kept.clear()
        self._return_rest = self._target_return
        self._timestep = self._timestep_before = 1
        self._action: Any = None

    @torch.no_grad()
    def predict(self, x: Observation, reward: float) -> NDArray | int:
        """The next action.

        Args:
            x: observation.
            reward: reward of the last step.

        Raises:
            ValueError: if the observation has another shape, an input is NaN or infinite, or the
                network's weights are.
        """
        self._check(x, reward)
        if len(self._transformer) == self._transformer.config.context or self._single:
            self._slide()
        step = self._step(x, reward)
        tokens = self._network.step_tokens(step)
        _check_result(tokens)
        for token in tokens:
            if len(self._transformer) == self._transformer.config.context:
                self._slide()  # the last action has filled the context
            hidden = self._transformer.append(token)
        self._kept.append(step)
        values = self._network.read(hidden)
        _check_result(values)
        scaler = self._algo.config.action_scaler
        if scaler is not None and not self._discrete:
            values = scaler.reverse_transform(values)
        action = self._action_sampler(values.cpu().numpy())
        # A copy: the caller may write into the one that it gets.
        self._action = np.array(action, np.float32)
        self._return_rest -= reward
        self._timestep_before = self._timestep
        self._timestep = min(self._timestep + 1, self._algo.config.max_timestep)
        return action

    def _check(self, x: Observation, reward: float) -> None:
        shape = self._algo.impl.observation_shape
        several = len(shape) > 0 and isinstance(shape[0], list | tuple)
        expected = [tuple(s) for s in shape] if several else [tuple(shape)]
        parts = list(x) if several else [x]
        found = [tuple(np.shape(part)) for part in parts]
        if found != expected:
            raise ValueError(
                f"the observation must have the shape {shape} that the network was built for, "
                f"without batch axis, got {found if several else found[0]}"
            )
        numbers = [*parts, self._return_rest - reward]
        if not all(np.isfinite(np.asarray(part)).all() for part in numbers):
            raise ValueError(
                "the observation and the reward must be finite, got NaN or infinity; check the "
                "environment and the target return"
            )

    def _slide(self) -> None:
        """Give up the oldest steps; the first of the others is a first one, with no action before.

        Interleaved tokens begin with a return-to-go then, whatever came before it.
        """
        if self._single:
            self._transformer.reset()
            self._action = None
            return
        tokens = list(self._transformer.tokens[-self._transformer.keep :])
        if isinstance(self._network, JointTokenTransformer):
            first = dataclasses.replace(self._kept[0], action=None)
            tokens[0] = self._network.step_tokens(first)[0]
        self._transformer.restart(tokens)

    def _step(self, x: Observation, reward: float) -> Step:
        config, device = self._algo.config, self._algo.impl.device
        observation = convert_to_torch_recursively(x, device)
        if config.observation_scaler is not None:
            observation = config.observation_scaler.transform(observation)
        rest = torch.tensor([self._return_rest - reward], dtype=torch.float32, device=device)
        if config.reward_scaler is not None:
            rest = config.reward_scaler.transform(rest)
        return Step(
            x=observation,
            return_to_go=rest,
            timestep=torch.tensor([self._timestep], device=device),
            action=self._last_action(device),
            timestep_before=torch.tensor([self._timestep_before], device=device),
        )

    def _last_action(self, device: str) -> Tensor | None:
        if self._action is None:
            return None
        row = np.atleast_1d(self._action)
        action: Tensor = convert_to_torch(row, device)
        scaler = self._algo.config.action_scaler
        if scaler is not None and not self._discrete:
            action = scaler.transform(action)
        return action


def _check_result(x: Tensor) -> None:
    """Raise ValueError where finite inputs have given NaN or infinity."""
    if not bool(x.isfinite().all()):
        raise ValueError(
            "the network gives NaN for a finite input: its weights are broken; load an earlier "
            "checkpoint, and lower the learning rate or clip the gradient"
        )


def _identity() -> TransformerActionSampler:
    return IdentityTransformerActionSampler()
