"""Run by test_triton.py in Triton's interpreter: the GPU kernels against PyTorch's operations."""

import itertools

import torch
from torch import Tensor

from policies.config import CurrentLIFConfig, EncoderConfig, LIFConfig, NeuronConfig
from policies.kernels import fused, gpu
from policies.kernels.neuron import Currents, Neurons
from policies.surrogate import Surrogate

STEPS, BATCH, SIZE = 5, 11, 30  # more than a block of neurons, and not a multiple of it
NEURONS: tuple[NeuronConfig, ...] = (
    CurrentLIFConfig(),
    LIFConfig(reset_mode="soft", surrogate="sigmoid"),
    CurrentLIFConfig(detach_reset=True, surrogate="arctan", surrogate_width=0.7),
    LIFConfig(surrogate="triangle", v_threshold=0.3),
    LIFConfig(reset_mode="soft", detach_reset=True),
)


def currents() -> dict[str, Currents]:
    """Every form in which currents come."""
    rows, bias = STEPS * BATCH, torch.randn(SIZE)
    small = torch.randint(-5_000, 5_000, (rows, 3, SIZE), dtype=torch.int32)
    large = torch.randint(-50_000, 50_000, (rows, 3, SIZE), dtype=torch.int32)
    narrow, wide = torch.full((SIZE,), 2.0**-29), torch.full((SIZE,), 2.0**-32)
    return {
        "float32": Currents(torch.randn(rows, SIZE)),
        "bf16": Currents(torch.randn(rows, SIZE).bfloat16(), bias=bias),
        "narrow": Currents(small, narrow, bias),
        "wide": Currents(large, wide.double(), bias),
    }


def close(ours: Tensor | None, expected: Tensor | None, tolerance: float) -> bool:
    assert ours is not None
    assert expected is not None
    assert ours.dtype == expected.dtype
    difference = (ours.float() - expected.float()).abs().max()
    return bool(difference <= tolerance * expected.float().abs().max())


def main() -> None:
    torch.manual_seed(0)
    activation = torch.rand(BATCH, SIZE)
    starts = [EncoderConfig(v_init=v_init).v_start for v_init in (0.0, 0.3, 0.5)]
    edges = torch.tensor([0.999 - start for start in starts]).view(torch.int32)
    activation[: len(starts)] = (edges[:, None] + torch.arange(-15, 15).int()).view(torch.float32)
    for start, dtype in itertools.product(starts, (torch.float32, torch.int8, torch.bfloat16)):
        ours = gpu.encode(activation, STEPS, 0.999, start, dtype)
        expected = fused.encode(activation, STEPS, 0.999, start, dtype)
        assert 0.1 < float(expected.float().mean()) < 0.9
        assert ours.dtype == dtype
        assert torch.equal(ours, expected)
    for config, (name, form) in itertools.product(NEURONS, currents().items()):
        neurons = Neurons(config, Surrogate(config.surrogate, config.surrogate_width))
        shape = (STEPS, BATCH, SIZE)
        ours_pass, expected_pass = (
            kernel.forward(form, shape, neurons, torch.int8, True) for kernel in (gpu, fused)
        )
        assert 0.05 < float(expected_pass.spikes.float().mean()) < 0.95
        for a, b in zip(ours_pass, expected_pass, strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b), (config, name)
        saved = expected_pass.saved
        assert saved is not None
        probe, weights, bias = torch.randn(shape), torch.rand(STEPS), torch.zeros(SIZE)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            gradients = [
                kernel.backward(saved, bias, probe.to(dtype), neurons, dtype, weights)
                for kernel in (gpu, fused)
            ]
            for a, b in zip(*gradients, strict=True):
                assert close(a, b, tolerance), (config, name, dtype)
    empty = gpu.forward(Currents(torch.empty(0, SIZE)), (STEPS, 0, SIZE), neurons, torch.int8, True)
    assert empty.spikes.shape == (STEPS, 0, SIZE)
    print("equal")


if __name__ == "__main__":
    main()
