"""Losses and updates: d3rlpy's, with schedules that resume, and what is logged of spikes."""

from typing import Any, BinaryIO

import torch
from d3rlpy.algos.transformer.inputs import TorchTransformerInput
from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DecisionTransformerImpl,
    DiscreteDecisionTransformerImpl,
)
from d3rlpy.algos.transformer.torch.tacr_impl import TACRImpl
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch, map_location, unwrap_ddp_model
from torch import Tensor, nn

from d3rlpy_spiking.recording import recorded_rates, summary
from d3rlpy_spiking.transformer import Progress, SpikingNetwork


class SpikingImpl:
    """Shared by every algorithm: stands before d3rlpy's implementation among the bases."""

    _modules: Any
    _device: str

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

    def _note_gradient(self) -> None:
        """Keep the gradient's norm, before the optimizer clips it."""
        if self._compiled:
            return
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in parameters:
            # PTBN's layer branch rests at theta = 0. d3rlpy leaves zeros where a gradient has been
            # before, and nothing in a network that was just loaded: the same in both.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [p.grad for p in parameters if p.grad is not None]
        self._gradient_norm = nn.utils.get_total_norm(grads)

    def load_model(self, f: BinaryIO) -> None:
        """Load weights, optimizer and progress; d3rlpy's wrapper for processes may be around."""
        states = torch.load(f, map_location=map_location(self._device))
        for name, module in self._modules.create_checkpointer(self._device).modules.items():
            target = unwrap_ddp_model(module) if isinstance(module, nn.Module) else module
            target.load_state_dict(states[name])

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

    def compute_grad(self, batch: TorchTrajectoryMiniBatch) -> dict[str, Tensor]:
        """Gradients of a batch."""
        out: dict[str, Tensor] = super().compute_grad(batch)
        self._note_gradient()
        return out


class SpikingDiscreteDecisionTransformerImpl(SpikingImpl, DiscreteDecisionTransformerImpl):
    """d3rlpy's loss (cross-entropy, padding trained towards action 0) and learning rate."""

    def compute_grad(self, batch: TorchTrajectoryMiniBatch) -> dict[str, Tensor]:
        """Gradients of a batch."""
        out: dict[str, Tensor] = super().compute_grad(batch)
        self._note_gradient()
        return out

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

    def compute_actor_grad(self, batch: TorchTrajectoryMiniBatch) -> Tensor:
        """The actor's gradients of a batch."""
        out: Tensor = super().compute_actor_grad(batch)
        self._note_gradient()
        return out
