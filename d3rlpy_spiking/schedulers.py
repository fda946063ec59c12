"""Learning-rate schedules that d3rlpy lacks."""

import dataclasses
import math

from d3rlpy.optimizers.lr_schedulers import LRSchedulerFactory, register_lr_scheduler_factory
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from policies.config import check_count


@dataclasses.dataclass()
class WarmupCosineFactory(LRSchedulerFactory):
    """Linear warm-up, then a cosine to 0: DSFormer's schedule.

    Args:
        warmup_steps: gradient steps until the full learning rate; DSFormer a tenth of all.
        total_steps: gradient steps until it is 0, more than warmup_steps.

    Raises:
        ValueError: if total_steps is not more than warmup_steps.

    Source: Huang et al. 2025 (DSFormer), released code.
    """

    warmup_steps: int = 2000
    total_steps: int = 20000

    def __post_init__(self) -> None:
        """Check both fields."""
        check_count("warmup_steps", self.warmup_steps)
        check_count("total_steps", self.total_steps)
        if self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"total_steps must be more than warmup_steps, got {self.total_steps} and "
                f"{self.warmup_steps}; set it to the n_steps of training"
            )

    def create(self, optim: Optimizer) -> LambdaLR:
        """The schedule for an optimizer."""
        return LambdaLR(optim, self._factor)

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "warmup_cosine"


register_lr_scheduler_factory(WarmupCosineFactory)
