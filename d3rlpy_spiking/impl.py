"""Losses and updates: d3rlpy's, with schedules that resume, and what is logged of spikes."""

from collections.abc import Callable
from typing import Any

from d3rlpy.algos.transformer.inputs import TorchTransformerInput
from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DecisionTransformerImpl,
    DiscreteDecisionTransformerImpl,
)
from d3rlpy.algos.transformer.torch.tacr_impl import TACRImpl
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch, unwrap_ddp_model
from torch import Tensor, nn

from d3rlpy_spiking.recording import recorded_rates, summary
from d3rlpy_spiking.transformer import Progress, SpikingNetwork

Gradients = Callable[[TorchTrajectoryMiniBatch], Any]


class SpikingImpl:
    """Shared by every algorithm: stands before d3rlpy's implementation among the bases."""

    _modules: Any
    # name of the attribute that computes the transformer's gradients
    _gradient_name = "_compute_grad"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._compiled = bool(kwargs.get("compiled", False))
        self._gradient_norm: Tensor | None = None
        inner = getattr(self, self._gradient_name)
        setattr(self, self._gradient_name, self._measured(inner))

    @property
    def network(self) -> SpikingNetwork:
        """The transformer, without d3rlpy's wrapper for several processes."""
        network: SpikingNetwork = unwrap_ddp_model(self._modules.transformer)
        return network

    @property
    def progress(self) -> Progress:
        """How far training has come."""
        return self.network.backbone.progress

    def _measured(self, inner: Gradients) -> Gradients:
        def compute(batch: TorchTrajectoryMiniBatch) -> Any:
            loss = inner(batch)
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            # Before the optimizer clips it.
            self._gradient_norm = nn.utils.get_total_norm(grads)
            return loss

        return compute

    def inner_predict(self, inpt: TorchTransformerInput) -> Tensor:
        """Action or logits of the last step, [A].

        The network is called without its wrapper: one process may predict while others do not.
        """
        out = self.network(
            inpt.observations, inpt.actions, inpt.returns_to_go, inpt.timesteps, 1 - inpt.masks
        )
        values: Tensor = out[1] if isinstance(out, tuple) else out
        return values[0, -1]

    def inner_update(self, batch: TorchTrajectoryMiniBatch, grad_step: int) -> dict[str, float]:
        """One gradient step; d3rlpy's metrics, firing rates, theta and the gradient's norm.

        `grad_step` starts at 0 in every process; the schedules follow the saved progress instead.
        """
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
        out: dict[str, float] = metrics
        return out


def masked_mean(values: Tensor, masks: Tensor) -> Tensor:
    """Mean of values [B, L] over the tokens with mask 1; 0 if there is none."""
    masks = masks.reshape(values.shape)
    return (values * masks).sum() / masks.sum().clamp_min(1.0)


class SpikingDecisionTransformerImpl(SpikingImpl, DecisionTransformerImpl):
    """d3rlpy's loss: squared error, padding counted in the mean's denominator."""


class SpikingDiscreteDecisionTransformerImpl(SpikingImpl, DiscreteDecisionTransformerImpl):
    """d3rlpy's loss (cross-entropy, padding trained towards action 0) and learning rate."""

    @property
    def _tokens(self) -> int:
        return int(self.progress.tokens)

    @_tokens.setter
    def _tokens(self, value: int) -> None:
        # d3rlpy's attribute is lost when saved; the network's buffer is not.
        self.progress.tokens.fill_(value)


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
        return masked_mean((action - batch.actions).square().mean(dim=-1), batch.masks)


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
        return masked_mean(loss, batch.masks)


class SpikingTACRImpl(SpikingImpl, TACRImpl):
    """d3rlpy's TACR with a spiking actor; its critics stay dense."""

    _gradient_name = "_compute_actor_grad"
