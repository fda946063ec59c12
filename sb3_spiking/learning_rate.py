"""A learning rate of its own for the spiking actor.

Stable-Baselines3 writes one rate, from the algorithm's schedule, into every optimizer at each
`train()`. A scale must therefore act where the rate is used: around the optimizer's step.
"""

from typing import Any

from torch.optim import Optimizer


class LearningRateScale:
    """Hooks that multiply an optimizer's rates by `scale` during each step, and only then.

    Args:
        scale: factor on the rate that SB3 sets, > 0.
        first_group: parameter groups before this one keep SB3's rate.
    """

    def __init__(self, scale: float, first_group: int = 0) -> None:
        self.scale = scale
        self.first_group = first_group
        self._rates: list[Any] = []

    def attach(self, optimizer: Optimizer) -> None:
        """Act on each coming step of optimizer."""
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups[self.first_group :]:
            group["lr"] = group["lr"] * self.scale

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
