"""Losses and updates: d3rlpy's, with schedules that resume, and what is logged of spikes."""

from collections.abc import Callable
from typing import Any

import torch
from d3rlpy.algos.transformer.inputs import TorchTransformerInput
from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DecisionTransformerImpl,
    DiscreteDecisionTransformerImpl,
)
from d3rlpy.algos.transformer.torch.tacr_impl import TACRImpl
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch, unwrap_ddp_model
from torch import Tensor, nn

from d3rlpy_spiking.monitor.watch import TransformerWatch
from d3rlpy_spiking.recording import recorded_rates, summary
from d3rlpy_spiking.transformer import Progress, SpikingNetwork
from policies.distributed import average_gradients, sum_over_ranks, world_size
from policies.distributed.group import gather_numbers, sum_number


class SpikingImpl:
    """Shared by every algorithm: stands before d3rlpy's implementation among the bases."""

    _modules: Any
    _device: str
    # whether other processes train the same network; see d3rlpy_spiking.distributed
    distributed = False
    # what distribute wants done before an update
    before_update: Callable[[], None] | None = None
    # looks at the network now and then
    watch: TransformerWatch | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._compiled = bool(kwargs.get("compiled", False))
        self._gradient_norm: Tensor | None = None
        super().__init__(*args, **kwargs)

    @property
    def network(self) -> SpikingNetwork:
        """The transformer, without d3rlpy's wrapper for several processes."""
        network: SpikingNetwork = unwrap_ddp_model(self._modules.transformer)
        return network

    @property
    def progress(self) -> Progress:
        """How far training has come."""
        return self.network.backbone.progress

    def _finish_gradient(self) -> None:
        """Average the gradient over ranks; keep its norm, before the optimizer clips it."""
        if self._compiled:
            return
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in parameters:
            # PTBN's layer branch rests at theta = 0. d3rlpy leaves zeros where a gradient has been
            # before, and nothing in a network that was just loaded: the same in both.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.distributed:
            average_gradients(parameters)
        grads = [p.grad for p in parameters if p.grad is not None]
        self._gradient_norm = nn.utils.get_total_norm(grads)

    def _mean(self, values: Tensor, masks: Tensor) -> Tensor:
        return masked_mean(values, masks, all_ranks=self.distributed)

    def inner_predict(self, inpt: TorchTransformerInput) -> Tensor:
        """Action or logits of the last step, [A]."""
        out = self.network(
            inpt.observations, inpt.actions, inpt.returns_to_go, inpt.timesteps, 1 - inpt.masks
        )
        values: Tensor = out[1] if isinstance(out, tuple) else out
        return values[0, -1]

    def inner_update(self, batch: TorchTrajectoryMiniBatch, grad_step: int) -> dict[str, float]:
        """One gradient step; d3rlpy's metrics, firing rates, theta and the gradient's norm.

        After some steps also what the spike monitor sees; see d3rlpy_spiking.monitor. `grad_step`
        starts at 0 in every process; the schedules follow the saved progress instead.
        """
        if self.before_update is not None:
            self.before_update()
        theta = float(self.progress.theta)
        if self._compiled:  # hooks would be baked into the graph
            metrics = super().inner_update(batch, grad_step)  # type: ignore[misc]  # d3rlpy's
        else:
            with recorded_rates(self.network) as rates:
                metrics = super().inner_update(batch, grad_step)  # type: ignore[misc]  # d3rlpy's
            metrics.update(summary(rates))
        self.progress.advance()
        metrics["theta"] = theta
        if self._gradient_norm is not None:
            metrics["grad_norm"] = float(self._gradient_norm)
        if self.distributed:
            metrics.update(_mean_losses(metrics))
        if self.watch is not None:
            metrics.update(self.watch.after_update(batch))
        out: dict[str, float] = metrics
        return out


def _mean_losses(metrics: dict[str, float]) -> dict[str, float]:
    """Losses averaged over the ranks: each rank's own is scaled for the gradient."""
    names = [name for name in metrics if name.endswith("loss")]
    every = gather_numbers([metrics[name] for name in names])
    return {name: sum(x) / len(x) for name, x in zip(names, zip(*every, strict=True), strict=True)}


def masked_mean(values: Tensor, masks: Tensor, *, all_ranks: bool = False) -> Tensor:
    """Mean of values [B, L] over the tokens with mask 1; 0 if there is none.

    With all_ranks the mean of the ranks' results is the mean over all ranks' tokens. The weight is
    in the loss, not in the average of gradients: batch norms carry gradients to other ranks.
    """
    masks = masks.reshape(values.shape)
    count = masks.sum()
    if all_ranks:
        count = sum_over_ranks(count)
    mean = (values * masks).sum() / count.clamp_min(1.0)
    return mean * world_size() if all_ranks else mean


class SpikingDecisionTransformerImpl(SpikingImpl, DecisionTransformerImpl):
    """d3rlpy's loss: squared error, padding counted in the mean's denominator."""

    def compute_grad(self, batch: TorchTrajectoryMiniBatch) -> dict[str, Tensor]:
        """Gradients of a batch."""
        out: dict[str, Tensor] = super().compute_grad(batch)
        self._finish_gradient()
        return out


class SpikingDiscreteDecisionTransformerImpl(SpikingImpl, DiscreteDecisionTransformerImpl):
    """d3rlpy's loss (cross-entropy, padding trained towards action 0) and learning rate."""

    def compute_grad(self, batch: TorchTrajectoryMiniBatch) -> dict[str, Tensor]:
        """Gradients of a batch."""
        out: dict[str, Tensor] = super().compute_grad(batch)
        self._finish_gradient()
        return out

    @property
    def _tokens(self) -> int:
        return int(self.progress.tokens)

    @_tokens.setter
    def _tokens(self, value: int) -> None:
        # d3rlpy's attribute is lost when saved; the network's buffer is not.
        new = value - self._tokens
        self.progress.tokens.add_(int(sum_number(new)) if self.distributed else new)


class JointTokenImpl(SpikingDecisionTransformerImpl):
    """DSFormer's loss: squared error, mean over the actions of tokens that exist."""

    def compute_loss(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """The loss of a batch, a scalar."""
        action = self._modules.transformer(
            batch.observations,
            batch.actions,
            batch.returns_to_go,
            batch.timesteps,
            1 - batch.masks,
        )
        return self._mean((action - batch.actions).square().mean(dim=-1), batch.masks)


class DiscreteJointTokenImpl(SpikingDiscreteDecisionTransformerImpl):
    """Cross-entropy, mean over tokens that exist."""

    def compute_loss(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """The loss of a batch, a scalar."""
        _, logits = self._modules.transformer(
            batch.observations,
            batch.actions,
            batch.returns_to_go,
            batch.timesteps,
            1 - batch.masks,
        )
        actions = batch.actions.reshape(logits.shape[:2]).long()
        loss = nn.functional.cross_entropy(logits.movedim(-1, 1), actions, reduction="none")
        return self._mean(loss, batch.masks)


class SpikingTACRImpl(SpikingImpl, TACRImpl):
    """d3rlpy's TACR with a spiking actor; its critics stay dense."""

    def compute_actor_grad(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """The actor's gradients of a batch."""
        out: Tensor = super().compute_actor_grad(batch)
        self._finish_gradient()
        return out

    def compute_critic_grad(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """The critics' gradients of a batch."""
        out: Tensor = super().compute_critic_grad(batch)
        if self.distributed:
            average_gradients(self._modules.q_funcs.parameters())
        return out
