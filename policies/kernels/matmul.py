"""Matmuls of spikes with weights, in the arithmetic that `matmul=` names.

*   float32: PyTorch's own. Its last bits depend on batch size, threads and processor.
*   exact: each row of weights becomes 24-bit integers with one power of two as scale, split into
    three int8 parts; spikes times parts are summed in int32 (where the processor has no sound int8
    matmul, the same integers in float64), recombined, and rounded to float32 once, before the bias
    is added. No order of addition changes a bit, so a spike depends on nothing but its own sample.
    A weight is off by about 2^-23 of the largest in its row
    (and of weights below 1e-31 no more than 2^-127 is told apart).
*   bf16: weights and sums rounded to bfloat16, float32 bias. Some spikes flip.

Backward passes take the weights as they are (float32), or rounded to bf16 together with the
gradients, as `matmul_backward` says. Under autocast to bfloat16 both are "bf16": see `in_force`.
"""

from functools import cache
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from policies.kernels.choice import Matmul, MatmulBackward, has_numba
from policies.kernels.guard import autocasts, without_autocast
from policies.kernels.neuron import Currents
from policies.kernels.scratch import scratch

# |q| <= 2^23, but no more than three digits in [-128, 127] can hold.
_BITS = 23
_MOST = (127 * 256 + 127) * 256 + 127
_MIN_EXPONENT = -126


class SplitWeight(NamedTuple):
    """Weights [out, in] as integers: w = scale * (65536 parts[0] + 256 parts[1] + parts[2]).

    Attributes:
        parts: [3, out, in] int8.
        scale: [out], powers of two; NaN for rows with NaN or infinity. float32 where no sum of a
            row's integers can leave int32, else float64; see `recombine`.
    """

    parts: Tensor
    scale: Tensor

    def integers(self, dtype: torch.dtype = torch.int32) -> Tensor:
        """[out, in]."""
        high, middle, low = self.parts.to(dtype).unbind(0)
        return (high * 256 + middle) * 256 + low


@torch.no_grad()
def split(weight: Tensor) -> SplitWeight:
    """Split weights [out, in]."""
    largest = weight.abs().amax(dim=1)
    mantissa, exponent = torch.frexp(largest)
    exponent = exponent - _BITS + (mantissa * 2.0**_BITS > _MOST)
    exponent = exponent.clamp_min(_MIN_EXPONENT).masked_fill(largest == 0, _MIN_EXPONENT)
    scale = torch.ldexp(torch.ones_like(largest), exponent)
    scale = torch.where(torch.isfinite(largest), scale, torch.nan)
    q = torch.nan_to_num(weight / scale[:, None], nan=0.0).round().to(torch.int32)
    if not _fits_int32(q):
        scale = scale.double()
    parts = torch.empty(3, *weight.shape, dtype=torch.int8, device=weight.device)
    for part in (2, 1):
        digit = ((q + 128) & 255) - 128
        parts[part] = digit
        q = (q - digit) >> 8
    parts[0] = q
    return SplitWeight(parts, scale)


def _compiled_split(weight: Tensor) -> SplitWeight:
    """As `split`, in one pass."""
    from policies.kernels.numba_event import digits

    parts = torch.empty(3, *weight.shape, dtype=torch.int8, device="cpu")
    scale = torch.empty(len(weight), dtype=torch.float32, device="cpu")
    most = digits(weight.contiguous().numpy(), parts.numpy(), scale.numpy())
    return SplitWeight(parts, scale if most < 1 << 31 else scale.double())


def _fits_int32(q: Tensor) -> bool:
    """Whether all sums of the integers [out, in] of a row fit."""
    if q.shape[1] < 1 << (31 - _BITS):
        return True
    # The sum of magnitudes would wait for a GPU.
    return q.device.type == "cpu" and int(q.abs().sum(dim=1).max()) < 1 << 31


class WeightCache:
    """The split of a weight, made again when the weight has changed.

    Compares values: version counters miss writes through `.data`, as Stable-Baselines3's target
    updates are. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        # (weight, its split), replaced as a whole: an interrupt or another thread finds either the
        # old pair or the new one.
        self._entry: tuple[Tensor, SplitWeight] | None = None

    def __call__(self, weight: Tensor) -> SplitWeight:
        """The split of weight [out, in]."""
        if weight.device.type != "cpu":
            return split(weight)  # a comparison would wait for the device
        weight = weight.detach()
        entry = self._entry
        if entry is None or not torch.equal(entry[0], weight):
            entry = weight.clone(), _compiled_split(weight) if has_numba() else split(weight)
            self._entry = entry
        return entry[1]

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """An empty cache."""
        return type(self), ()


def currents(
    spikes: Tensor, weight: Tensor, bias: Tensor, matmul: Matmul, cached: WeightCache
) -> Currents:
    """Input currents of spikes [M, in], for neurons with weight [out, in] and bias [out].

    The dtype of spikes must be `spike_dtype(matmul)`.
    """
    if matmul == "float32":
        return Currents(linear(spikes, weight, bias))
    if matmul == "bf16":
        return Currents(linear(spikes, weight.bfloat16()), bias=bias)
    parts, scale = cached(weight)
    if _has_int8(spikes.device.type):
        sums = _int_mm(spikes, parts.flatten(0, 1).t())
        return Currents(sums.unflatten(1, (3, -1)), scale, bias)
    total = spikes.double() @ SplitWeight(parts, scale).integers(torch.float64).t()
    return Currents((total * scale).float() + bias)


def real_linear(x: Tensor, weight: Tensor, bias: Tensor, matmul: Matmul) -> Tensor:
    """Currents [B, out] of real inputs [B, in]: float32, for "exact" rounded from float64."""
    if matmul == "exact":
        return (x.double() @ weight.double().t()).float() + bias
    return linear(x, weight, bias)


def gradient_dtype(matmul: Matmul, backward: MatmulBackward) -> torch.dtype:
    """The dtype of the operands of backward matmuls."""
    bf16 = matmul == "bf16" if backward == "auto" else backward == "bf16"
    return torch.bfloat16 if bf16 else torch.float32


def in_force(
    matmul: Matmul, grad_dtype: torch.dtype, device: torch.device
) -> tuple[Matmul, torch.dtype]:
    """The arithmetic that runs, forward and backward: what was asked for, or autocast's."""
    return ("bf16", torch.bfloat16) if autocasts(device) else (matmul, grad_dtype)


def spike_dtype(matmul: Matmul) -> torch.dtype:
    """The dtype of spikes in a forward matmul."""
    return {"float32": torch.float32, "exact": torch.int8, "bf16": torch.bfloat16}[matmul]


def _int_mm(a: Tensor, b: Tensor) -> Tensor:
    """A [M, K] @ b [K, N], int8 -> int32, in scratch memory."""
    rows, columns = a.shape[0], b.shape[1]
    if a.device.type == "cuda":
        a, b = pad_for_cuda(a, b)
    elif a.shape[1] == 1:
        # torch 2.13 reads a transposed operand with one row as if it were full of other memory.
        a, b = pad(a, (0, 1)), pad(b, (0, 0, 0, 1))
    # A private function of torch, so `_has_int8` tries it before it is trusted.
    out = scratch("int8 sums", (a.shape[0], b.shape[1]), torch.int32, a.device)
    return torch._int_mm(a, b, out=out)[:rows, :columns]


def pad_for_cuda(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Operands with zeros added: CUDA's int8 matmul takes M > 16 and multiples of 8."""
    inner, columns = -a.shape[1] % 8, -b.shape[1] % 8
    rows = max(17 - a.shape[0], 0)
    a = pad(a, (0, inner, 0, rows))
    # By columns: that is how CUDA wants the second operand.
    return a.contiguous(), pad(b.t(), (0, inner, 0, columns)).contiguous().t()


@cache
def _has_int8(device: str) -> bool:
    """Whether torch sums int8 products in int32 here, without saturation on the hardest sums."""
    try:
        for rows, low, high in ((1, -128, 127), (40, -128, 127)):
            spikes = torch.ones(rows, 512, dtype=torch.int8, device=device)
            weights = torch.full((512, 64), low, dtype=torch.int8, device=device)
            weights[:, ::2] = high
            sums = _int_mm(spikes, weights).cpu()
            expected = 512 * weights[0].int().cpu()
            if sums.dtype != torch.int32 or not torch.equal(sums, expected.expand(rows, -1)):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True


class _SpikeLinear(torch.autograd.Function):
    """currents.float32() as a function of spikes and float32 weights; differentiable twice."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes: Tensor,
        weight: Tensor,
        bias: Tensor,
        matmul: Matmul,
        cached: WeightCache,
        grad_dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        ctx.grad_dtype = grad_dtype
        operand = spikes.to(spike_dtype(matmul))
        return currents(operand, weight, bias, matmul, cached).float32()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        spikes, weight = ctx.saved_tensors
        dtype, grad = ctx.grad_dtype, grad_outputs[0]
        with without_autocast(grad.device):
            rounded = grad.to(dtype)
            grad_spikes = (rounded @ weight.to(dtype)).to(spikes.dtype)
            grad_weight = (rounded.t() @ spikes.to(dtype)).to(weight.dtype)
        return grad_spikes, grad_weight, grad.sum(dim=0), None, None, None


def spike_linear(
    spikes: Tensor,
    weight: Tensor,
    bias: Tensor,
    matmul: Matmul,
    cached: WeightCache,
    grad_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Complete currents [M, out] of spikes [M, in], with gradients; see the head of this file."""
    if matmul == "float32" and grad_dtype == torch.float32:
        return linear(spikes, weight, bias)
    out = _SpikeLinear.apply(spikes, weight, bias, matmul, cached, grad_dtype)  # type: ignore[no-untyped-call]  # torch's
    return cast(Tensor, out)
