"""Connections inside an output population: what its neurons fired comes back one spike step later.

With x_t the currents of a layer's linear map, s_t its spikes, L the weights inside each population
and b_L a bias, the neurons receive

    x_t + b_L + L s_{t-1},    s_0 = 0,

so in the current-based neuron c_t = i_decay c_{t-1} + W z_t + b + b_L + L s_{t-1}. The bias enters
at every step, the first one too, where no spikes come back, as it does in ILC-SAN's code. Each sum
is rounded on its own, from left to right. The spikes of the last step come back to nothing.

Source: Chen et al. 2024 (ILC-SAN, arXiv 2401.05444). Differs: their connected neurons are of second
order, these are the layer's own.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from policies.functional import CurrentLIFState, Feedback, LIFState
from policies.kernels.choice import Matmul
from policies.kernels.guard import transformed, without_autocast
from policies.kernels.matmul import WeightCache, in_force
from policies.neurons import LIF, CurrentLIF
from policies.synops import charged


class IntraLayer(nn.Module):
    """Runs a layer's neurons with feedback inside each of A populations of P neurons.

    The parameters start as PyTorch's grouped convolution's, uniform in +- 1 / sqrt(P).

    Args:
        populations: A, >= 1.
        pop_size: P, >= 1.
        matmul: arithmetic of spikes times weights; see policies.kernels.matmul.
        grad_dtype: dtype of the operands of backward matmuls.

    Attributes:
        weight: [A, P, P]; weight[a, q, p] goes from neuron p of population a to its neuron q.
        bias: [A * P].
    """

    def __init__(
        self,
        populations: int,
        pop_size: int,
        matmul: Matmul = "float32",
        grad_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.matmul = matmul
        self.grad_dtype = grad_dtype
        self.cached = WeightCache()
        self.weight = nn.Parameter(torch.empty(populations, pop_size, pop_size))
        self.bias = nn.Parameter(torch.empty(populations * pop_size))
        bound = 1.0 / math.sqrt(pop_size)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(
        self, i_in_seq: Tensor, neuron: LIF | CurrentLIF, price: float = 0.0
    ) -> tuple[Tensor, LIFState | CurrentLIFState]:
        """Run the neurons from state 0.

        Args:
            i_in_seq: currents of the layer's linear map, [T, B, A * P].
            neuron: the layer's neurons, which see i_in_seq plus the bias as their input.
            price: what each addition is charged in backward; see policies.synops.

        Returns:
            spikes [T, B, A * P], and the state after the last step.
        """
        feedback, each = self.feedback(i_in_seq.device), price * self.weight.shape[-1]
        result: tuple[Tensor, LIFState | CurrentLIFState] = neuron(
            i_in_seq + self.bias,
            None,
            (lambda spikes: feedback(charged(spikes, each))) if price else feedback,
        )
        return result

    def feedback(self, device: torch.device) -> Feedback:
        """L as a function of spikes [B, A * P], in the arithmetic in force."""
        weight = self.weight
        matmul, grad_dtype = in_force(self.matmul, self.grad_dtype, device)
        plain = transformed(device) or weight.dtype != torch.float32
        if plain or (matmul == "float32" and grad_dtype == torch.float32):
            return lambda spikes: _grouped(spikes, weight)
        operand = self.operand(matmul)

        def currents(spikes: Tensor) -> Tensor:
            out = _Feedback.apply(spikes, weight, operand, grad_dtype)  # type: ignore[no-untyped-call]  # torch's
            return cast(Tensor, out)

        return currents

    @torch.no_grad()
    def operand(self, matmul: Matmul) -> Tensor:
        """The weights [A, P, P] that a matmul takes.

        For "exact" they are float64: its integers times their power of two, so that sums are exact
        and a current is rounded to float32 once. NaN in rows with NaN or infinity.
        """
        weight = self.weight
        if matmul == "float32":
            return weight.detach()
        if matmul == "bf16":
            return weight.bfloat16()
        parts = self.cached(weight.flatten(0, 1))
        rows = parts.integers(torch.float64) * parts.scale.double().unsqueeze(1)
        return rows.view_as(weight)

    def extra_repr(self) -> str:
        """Show the settings in print(module)."""
        populations, pop_size, _ = self.weight.shape
        return f"populations={populations}, pop_size={pop_size}"


def _grouped(x: Tensor, weight: Tensor) -> Tensor:
    """Each population's part of x [B, A * P] times its weights [A, P, P]: [B, A * P]."""
    populations = x.unflatten(1, weight.shape[:2]).transpose(0, 1)  # [A, B, P]
    return torch.bmm(populations, weight.transpose(1, 2)).transpose(0, 1).flatten(1)


class _Feedback(torch.autograd.Function):
    """`_grouped` of spikes in the dtype of `operand`; differentiable twice."""

    @staticmethod
    def forward(
        ctx: Any, spikes: Tensor, weight: Tensor, operand: Tensor, grad_dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        ctx.grad_dtype = grad_dtype
        return _grouped(spikes.to(operand.dtype), operand).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        spikes, weight = ctx.saved_tensors
        dtype, grad = ctx.grad_dtype, grad_outputs[0]
        with without_autocast(grad.device):
            rounded = grad.to(dtype)
            grad_spikes = _grouped(rounded, weight.to(dtype).transpose(1, 2)).to(spikes.dtype)
            sent = spikes.to(dtype).unflatten(1, weight.shape[:2]).transpose(0, 1)  # [A, B, P]
            arrived = rounded.unflatten(1, weight.shape[:2]).transpose(0, 1)
            grad_weight = torch.bmm(arrived.transpose(1, 2), sent).to(weight.dtype)
        return grad_spikes, grad_weight, None, None
