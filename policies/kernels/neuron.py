"""What a kernel computes: neurons over all spike steps, forward and backward, and the encoder.

A kernel is a module with the three functions of `NeuronKernel`. All give the spikes of
`policies.functional`, and its gradients up to rounding.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from policies.config import CurrentLIFConfig, NeuronConfig
from policies.kernels.choice import Kernel
from policies.surrogate import Surrogate


class Currents(NamedTuple):
    """Input currents [T * B, N] as a matmul leaves them.

    float32: complete. bfloat16: `bias` [N] is still to be added. int32: [T * B, 3, N] sums of
    weight parts, `scale` [N] and `bias` [N] missing: a current is the recombined integer, rounded
    to float32 once, times its power of two, plus the bias. A float32 scale says that the integers
    fit int32; see kernels.matmul.
    """

    x: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None

    def float32(self) -> Tensor:
        """Complete currents, [T * B, N]."""
        x = self.x
        if x.dtype == torch.int32:
            assert self.scale is not None
            assert self.bias is not None
            high, middle, low = x.unbind(1)
            if self.scale.dtype == torch.float32:
                total = high * 256
                total.add_(middle).mul_(256).add_(low)
                return total.float().mul_(self.scale).add_(self.bias)
            wide = (high * 256).add_(middle).double().mul_(256.0).add_(low)
            return wide.mul_(self.scale).float().add_(self.bias)
        return x if self.bias is None else x.float() + self.bias


class Neurons(NamedTuple):
    """A layer's neurons: settings, and the surrogate of their backward."""

    config: NeuronConfig
    surrogate: Surrogate

    @property
    def i_decay(self) -> float:
        """Decay of the current: a LIF is a current-based one whose current does not stay."""
        return self.config.i_decay if isinstance(self.config, CurrentLIFConfig) else 0.0


class Pass(NamedTuple):
    """What a forward pass leaves.

    Attributes:
        spikes: [T, B, N].
        saved: what the kernel's backward wants, [T, B, N]; None where no backward follows.
        v: membrane after the last step, [B, N].
    """

    spikes: Tensor
    saved: Tensor | None
    v: Tensor


class Gradients(NamedTuple):
    """What a backward pass leaves.

    Attributes:
        grad: of the currents, [T, B, N], in the dtype that the next matmul wants; perhaps scratch
            memory, to be read before the next backward pass.
        bias: of the bias, [N] float32.
        summed: `grad` summed over T with a weight for each step, [B, N]; None if not asked for.
    """

    grad: Tensor
    bias: Tensor
    summed: Tensor | None


class NeuronKernel(Protocol):
    """The functions of a kernel module."""

    def encode(
        self,
        activation: Tensor,
        spike_steps: int,
        v_threshold: float,
        v_start: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """The deterministic encoder's spikes [T, B, N] of activations [B, N].

        Membranes start at `v_start`, a number that float32 holds.
        """
        ...

    def forward(
        self,
        currents: Currents,
        shape: tuple[int, int, int],
        neurons: Neurons,
        dtype: torch.dtype,
        keep: bool,
    ) -> Pass:
        """All spike steps of a layer of shape [T, B, N]; `keep` what backward needs."""
        ...

    def backward(
        self,
        saved: Tensor,
        bias: Tensor,
        grad_spikes: Tensor,
        neurons: Neurons,
        dtype: torch.dtype,
        weights: Tensor | None,
    ) -> Gradients:
        """Gradients, in `dtype`, from those of the spikes, [T, B, N] in float32 or bf16.

        `saved` is what `forward` left, with the layer's bias [N].
        """
        ...


def load(kernel: Kernel) -> NeuronKernel:
    """The module behind a name that `choice.pick` has given, "torch" excepted."""
    if kernel == "numba":
        from policies.kernels import cpu

        return cpu
    if kernel == "triton":
        from policies.kernels import gpu

        return gpu
    from policies.kernels import fused

    return fused
