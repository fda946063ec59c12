"""Optimizer steps by gradients of all ranks."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn
from torch.optim import Optimizer

from policies.distributed import average_gradients


def optimizers(model: BaseAlgorithm) -> Iterator[tuple[str, Optimizer]]:
    """Every optimizer of a model, the entropy coefficient's too, by the name of what it moves."""
    for name in model._get_torch_save_params()[0]:
        part = recursive_getattr(model, name)
        if isinstance(part, Optimizer):
            yield name.removesuffix("optimizer").rstrip("._") or "model", part


class SharedSteps:
    """Averages gradients over the ranks just before each optimizer step.

    Stable-Baselines3 clips before it steps. A norm must be clipped after averaging, so its own
    clipping is made idle while it trains (see `idle_clipping`) and takes place here.

    Args:
        model: whose optimizers to act on.

    Attributes:
        weight: of this rank's gradient in the next average; None: all ranks the same.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.weight: float | None = None
        self._model = model
        self._max_norm: float | None = None
        self._acted_on: list[tuple[Optimizer, str]] = []
        self.attach()

    def attach(self) -> None:
        """Act on the model's optimizers; it may have got new ones."""
        for name, optimizer in optimizers(self._model):
            if not any(known is optimizer for known, _ in self._acted_on):
                self._acted_on.append((optimizer, name))
                optimizer.register_step_pre_hook(self._before_step)

    def idle_clipping(self) -> dict[str, Any]:
        """What to set in the model while it trains."""
        self._max_norm = getattr(self._model, "max_grad_norm", None)
        return {} if self._max_norm is None else {"max_grad_norm": math.inf}

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(parameters, self.weight)
        self.weight = None
        if self._max_norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(self._model.policy.parameters(), self._max_norm)
        name = next(name for known, name in self._acted_on if known is optimizer)
        self._log(name, norm)

    def _log(self, name: str, norm: torch.Tensor) -> None:
        logger = getattr(self._model, "_logger", None)
        if logger is not None:  # before the first `learn` there is none
            logger.record_mean(f"train/{name}_grad_norm", float(norm))
