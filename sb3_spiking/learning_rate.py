"""A learning rate of its own for the spiking actor.

Stable-Baselines3 writes one rate, from the algorithm's schedule, into every optimizer at each
`train()`. A scale must therefore act where the rate is used: around the optimizer's step.
"""

from typing import Any, ClassVar

from torch.optim import Optimizer

from sb3_spiking.options import SpikingOptions

# The attribute that marks a scaled optimizer. Copies of optimizers drop it together with the hooks.
_MARK = "_spiking_learning_rate_scale"


class LearningRateScale:
    """Hooks that multiply an optimizer's rates by `scale` during each step, and only then.

    Args:
        scale: factor on the rate that SB3 sets, > 0.
        first_group: parameter groups before this one keep SB3's rate.
    """

    def __init__(self, scale: float, first_group: int = 0) -> None:
        self.scale = scale
        self.first_group = first_group
        # (SB3's rate, the scaled one) of each group while a step runs
        self._rates: list[tuple[Any, Any]] = []

    def attach(self, optimizer: Optimizer) -> None:
        """Act on each coming step of optimizer; nothing if a scale acts on it already."""
        if getattr(optimizer, _MARK, None) is None:
            setattr(optimizer, _MARK, self)
            optimizer.register_step_pre_hook(self._before)
            optimizer.register_step_post_hook(self._after)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._restore(optimizer)
        self._rates = [(group["lr"], group["lr"] * self.scale) for group in self._scaled(optimizer)]
        for group, (_, scaled) in zip(self._scaled(optimizer), self._rates, strict=True):
            group["lr"] = scaled

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._restore(optimizer)

    def _restore(self, optimizer: Optimizer) -> None:
        """Put back SB3's rates, also those that a step left scaled when it raised."""
        for group, (rate, scaled) in zip(self._scaled(optimizer), self._rates, strict=False):
            if group["lr"] is scaled:  # else SB3 has written a new one since, perhaps equal
                group["lr"] = rate
        self._rates = []

    def _scaled(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        return optimizer.param_groups[self.first_group :]


class ScaledOptimizer:
    """Put before an SB3 network: its optimizer steps with `actor_lr_scale` times SB3's rate."""

    # parameter groups of the optimizer before this one keep SB3's rate
    first_scaled_group: ClassVar[int] = 0
    optimizer: Optimizer
    options: SpikingOptions

    def scale_learning_rate(self) -> None:
        """Scale the rate of the optimizer that SB3 has set."""
        scale = LearningRateScale(self.options.actor_lr_scale, self.first_scaled_group)
        scale.attach(self.optimizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and unpickled networks keep the scaled rate: optimizers drop their hooks there."""
        module: Any = super()
        module.__setstate__(state)
        if "optimizer" in self.__dict__:
            self.scale_learning_rate()
