"""A dense network that stands in for a spiking actor where targets are computed.

The averaged weights of a target network make a spiking actor jump: a small change of a weight
moves a spike by a step or removes it. A dense network that learns to copy the actor follows it
smoothly.

Source: Xu et al. 2025 (Proxy Target, arXiv 2505.24161).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from policies.actor import PopulationBody
from policies.distributed import average_gradients, world_size


class ProxyTarget(nn.Module):
    """A ReLU network that learns what another network answers: x [B, n_in] -> y [B, n_out].

    Its optimizer's state is saved with it.

    Args:
        n_in: features.
        n_out: values.
        hidden: neurons of each hidden layer; the source has 512 and 512.
        steps: updates for each batch that it is shown, >= 1; the source has 3.
        learning_rate: of Adam, > 0; the source has 1e-3.
        squash: tanh on the values.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int] = (512, 512),
        steps: int = 3,
        learning_rate: float = 1e-3,
        squash: bool = True,
    ) -> None:
        super().__init__()
        self.steps = steps
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(n_in, size), nn.ReLU()]
            n_in = size
        layers.append(nn.Linear(n_in, n_out))
        self.network = nn.Sequential(*layers, *([nn.Tanh()] if squash else []))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate, fused=True)
        # Nothing here depends on the mode. SB3 switches actors and critics only, and a part that
        # stays in training mode makes each `predict` walk through the policy.
        self.eval()
        # Mean squared error before the last batch's first update; NaN before any.
        self.error = float("nan")

    def forward(self, x: Tensor) -> Tensor:
        """What the other network would answer."""
        return cast(Tensor, self.network(x))

    def follow(self, x: Tensor, y: Tensor) -> None:
        """Learn from a batch: x [B, n_in] and the other network's answers y [B, n_out].

        In a process group all ranks make the same update.
        """
        x, y = x.detach(), y.detach()
        with torch.enable_grad():
            for step in range(self.steps):
                loss = nn.functional.mse_loss(self(x), y)
                if step == 0:
                    self.error = float(loss.detach())
                self.optimizer.zero_grad()
                loss.backward()
                if world_size() > 1:
                    average_gradients(self.parameters())
                self.optimizer.step()

    def get_extra_state(self) -> Tensor:
        """Adam's state as one tensor, [1 + 2 * parameters]; empty before the first update.

        A tensor, since those who walk through a policy's state_dict expect nothing else.
        """
        states = [self.optimizer.state.get(parameter) for parameter in self.parameters()]
        known = [state for state in states if state]
        if not known:
            return torch.zeros(0)
        parts = [known[0]["step"].reshape(1).float().cpu()]  # fused Adam keeps it on its device
        for name in ("exp_avg", "exp_avg_sq"):
            parts += [state[name].flatten().cpu() for state in known]
        return torch.cat(parts)

    def set_extra_state(self, state: Tensor) -> None:
        """Take Adam's state from a state_dict."""
        self.optimizer.state.clear()
        if state.numel() == 0:
            return
        parameters = list(self.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        if state.numel() != 1 + 2 * sum(sizes):
            return  # of a proxy of other sizes: load_state_dict says so by its parameters
        step, *moments = state.split([1, *sizes, *sizes])
        for parameter, mean, square in zip(
            parameters, moments[: len(sizes)], moments[len(sizes) :], strict=True
        ):
            self.optimizer.state[parameter] = {
                "step": step.reshape(()).to(parameter.device, copy=True),
                "exp_avg": mean.view_as(parameter).to(parameter).clone(),
                "exp_avg_sq": square.view_as(parameter).to(parameter).clone(),
            }


class ProxiedActor:
    """Put before an SB3 actor with a spiking network: it teaches a proxy, or a proxy is asked.

    The proxy sees what the encoder sees. It is no part of the actor, whose parameters SB3 averages
    with its target's, hence the tuples.
    """

    _taught: tuple[ProxyTarget, ...] = ()
    _asked: tuple[ProxyTarget, ...] = ()

    def teach(self, proxy: ProxyTarget) -> None:
        """Show each batch that this actor is trained on to a proxy."""
        self._taught = (proxy,)

    def ask(self, proxy: ProxyTarget) -> None:
        """Let a proxy give this actor's answers: the actor is a target."""
        self._asked = (proxy,)

    def _teach(self, body: PopulationBody, features: Tensor, *answers: Tensor) -> None:
        """Show the proxy an answer that the actor is about to learn from."""
        actor: Any = self
        if self._taught and actor.training and torch.is_grad_enabled():
            self._taught[0].follow(_seen(body, features), torch.cat(answers, dim=1))


def _seen(body: PopulationBody, features: Tensor) -> Tensor:
    """What the encoder sees of features [B, features_dim]."""
    normalizer = body.normalizer
    return features if normalizer is None else cast(Tensor, normalizer(features))


def answer(proxies: tuple[ProxyTarget, ...], body: PopulationBody, features: Tensor) -> Tensor:
    """What the first proxy says to features [B, features_dim] in place of a spiking network."""
    with torch.no_grad():
        seen = _seen(body, features)
    return cast(Tensor, proxies[0](seen))
