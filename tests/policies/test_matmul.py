"""Matmuls of spikes: integers by hand, bounds, and the same bits whatever the batch."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

from policies.actor import PopulationActor
from policies.config import PopulationActorConfig
from policies.kernels import matmul, readout
from policies.kernels.choice import Matmul
from policies.kernels.readout import compiled_read, exact_read, fixed_point
from tests.common import needs_popsan
from tests.kernels import NEEDS_NUMBA, NUMBA


def held(weight: Tensor) -> Tensor:
    """Weights as "exact" holds them, float64."""
    parts, scale = matmul.split(weight)
    return matmul.SplitWeight(parts, scale).integers(torch.float64) * scale.double()[:, None]


def spikes(rows: int, columns: int, seed: int = 0) -> Tensor:
    return (torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.3).float()


def weights(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_split_by_hand() -> None:
    # Largest 0.75 = 0.75 * 2^0: the scale is 2^-23.
    parts, scale = matmul.split(torch.tensor([[0.75, -(2.0**-15), 2.0**-23, -(2.0**-24), 0.0]]))
    assert scale.tolist() == [2.0**-23]
    q = [int(0.75 * 2**23), -256, 1, 0, 0]  # a half rounds to even
    assert matmul.SplitWeight(parts, scale).integers().tolist() == [q]
    assert parts[:, 0].T.tolist()[:4] == [[96, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, 0]]


def test_the_largest_digit_stays_within_int8() -> None:
    below_one = 1.0 - 2.0**-24
    parts, scale = matmul.split(torch.tensor([[below_one, -below_one], [0.996, 0.1]]))
    assert scale.tolist() == [2.0**-22, 2.0**-23]
    whole = matmul.SplitWeight(parts, scale).integers()
    assert whole[0].tolist() == [2**22, -(2**22)]


@pytest.mark.parametrize("magnitude", [1e-42, 1e-38, 1e-20, 1e-3, 1.0, 1e10, 3e38])
def test_error_of_a_weight(magnitude: float) -> None:
    w = torch.rand(50, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    w = w * magnitude
    error = (held(w) - w.double()).abs().amax(dim=1)
    largest = w.double().abs().amax(dim=1)
    assert bool((error <= largest * 1.004 * 2.0**-23 + 2.0**-127).all())


@NEEDS_NUMBA
def test_compiled_split_is_the_same() -> None:
    scales = torch.tensor([1e-44, 1e-40, 1e-30, 1e-3, 0.996, 1.0, 1e10, 1e38, 0.0])
    w = weights(9, 33).clamp(-1, 1) * scales[:, None]
    w[3, 5] = float("nan")
    w[4, 6] = -float("inf")
    plain, compiled = matmul.split(w), matmul._compiled_split(w)
    assert torch.equal(plain.parts, compiled.parts)
    assert torch.equal(plain.scale.nan_to_num(7.0), compiled.scale.nan_to_num(7.0))
    assert plain.scale.isnan().tolist() == [False] * 3 + [True] * 2 + [False] * 4


@pytest.mark.parametrize("inputs", [1, 17, 170, 256, 700, 3000])
def test_currents_are_float64_sums_rounded_once(inputs: int) -> None:
    w, s, bias = weights(31, inputs), spikes(19, inputs), weights(1, 31)[0]
    # Some sums of whole rows leave int32.
    w[:2] = w[:2].sign() * (1.0 + torch.rand(2, inputs) * 0.9)
    s[:2] = (w[:2] > 0).float()
    w[2], s[2] = 1.9, 1.0
    expected = (s.double() @ held(w).t()).float() + bias
    cached = matmul.WeightCache()
    ours = matmul.spike_linear(s, w, bias, "exact", cached)
    assert torch.equal(ours, expected)
    assert (matmul.split(w).scale.dtype == torch.float64) == (inputs >= 700)


def test_without_int8_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    w, s, bias = weights(31, 600), spikes(19, 600), weights(1, 31)[0]
    fast = matmul.spike_linear(s, w, bias, "exact", matmul.WeightCache())
    monkeypatch.setattr(matmul, "_has_int8", lambda _device: False)
    assert torch.equal(matmul.spike_linear(s, w, bias, "exact", matmul.WeightCache()), fast)


def test_a_processor_that_saturates_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: Tensor, b: Tensor) -> Tensor:
        pairs = a.int()[:, :, None] * b.int()[None]
        pairs = (pairs[:, 0::2] + 0).add(pairs[:, 1::2]).clamp(-128, 127)  # too few bits
        return pairs.sum(dim=1, dtype=torch.int32)

    def missing(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("not implemented for this device")

    for broken in (saturating, missing):
        monkeypatch.setattr(matmul, "_int_mm", broken)
        assert not matmul._has_int8.__wrapped__("cpu")


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 1, 6), (3, 5, 9), (16, 8, 8), (40, 170, 180)])
def test_integer_products_and_padding_for_cuda(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 2, (m, k), generator=generator, dtype=torch.int8)
    b = torch.randint(-128, 128, (n, k), generator=generator, dtype=torch.int8).t()
    assert torch.equal(matmul._int_mm(a, b).long(), a.long() @ b.long())
    wide_a, wide_b = matmul.pad_for_cuda(a, b)
    assert wide_a.shape[0] > 16
    assert wide_a.shape[1] % 8 == 0
    assert wide_b.shape[1] % 8 == 0
    assert torch.equal((wide_a.long() @ wide_b.long())[:m, :n], a.long() @ b.long())


def test_the_cache_sees_every_change() -> None:
    """SB3's target updates write through `.data`, which no version counter shows."""
    w = torch.nn.Parameter(weights(4, 6))
    cached = matmul.WeightCache()
    first = cached(w)
    assert cached(w) is first
    w.data.mul_(0.5)
    assert torch.equal(cached(w).scale, first.scale / 2)
    w.data = weights(4, 6, seed=1)
    assert torch.equal(cached(w).parts, matmul.split(w).parts)
    for other in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        assert other._entry is None


@pytest.mark.parametrize("arithmetic", ["float32", "exact", "bf16"])
def test_gradients(arithmetic: Matmul) -> None:
    """Straight through the rounding: as if the matmul were float32's."""
    w, s, bias = weights(8, 12), spikes(20, 12), weights(1, 8)[0]
    probe = weights(20, 8, seed=3)

    def gradients(which: Matmul) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (s, w, bias)]
        out = matmul.spike_linear(leaves[0], leaves[1], leaves[2], which, matmul.WeightCache())
        return list(torch.autograd.grad((out * probe).sum(), leaves))

    for ours, expected in zip(gradients(arithmetic), gradients("float32"), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kernel", ["torch", "fused", NUMBA])
def test_a_sample_does_not_depend_on_its_batch(threads: int, kernel: str) -> None:
    torch.manual_seed(0)
    actor = PopulationActor(17, 6, PopulationActorConfig(matmul="exact", kernel=kernel)).eval()  # type: ignore[arg-type]
    obs = torch.randn(300, 17) * 2
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            whole = actor(obs)
            for batch in (1, 2, 7, 64):
                parts = [actor(part) for part in obs[:128].split(batch)]
                assert torch.equal(torch.cat(parts), whole[:128])
    finally:
        torch.set_num_threads(before)


def test_readout_by_hand() -> None:
    q, scale = fixed_point(torch.tensor([[0.75, -0.5, 2.0**-29]]))
    assert scale.tolist() == [[2.0**-29]]
    assert q.tolist() == [[0.75 * 2**29, -(2**28), 1.0]]
    activity = torch.tensor([[[0.2, 1.0, 0.6]]])  # 1, 5 and 3 spikes of 5
    weight = torch.tensor([[0.75, -0.5, 2.0**-29]])
    expected = (1 * 0.75 - 5 * 0.5 + 3 * 2.0**-29) / 5
    assert exact_read(activity, weight, 5).tolist() == [[pytest.approx(expected, rel=1e-7)]]


@NEEDS_NUMBA
def test_readout_with_and_without_compiled_loops() -> None:
    weight = weights(6, 10)
    activity = torch.randint(0, 6, (50, 6, 10), generator=torch.Generator().manual_seed(0)) / 5
    weight.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readout, "has_numba", lambda: False)
        plain = exact_read(activity, weight, 5)
    assert torch.equal(exact_read(activity, weight, 5), plain)
    bias = weights(1, 6, seed=2)[0]
    assert compiled_read(activity.flatten(1), weight, bias, 2.0, 5) is None
    with torch.no_grad():
        compiled = compiled_read(activity.flatten(1), weight, bias, 2.0, 5)
        assert compiled is not None
        assert torch.equal(plain + 2.0 * bias, compiled)
    torch.testing.assert_close(plain, (activity * weight).sum(dim=-1), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(plain.square().sum(), weight, create_graph=True)
    expected = (2 * plain.unsqueeze(-1) * activity).sum(dim=0)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.grad(gradient.sum(), weight)[0].abs().sum() > 0


@needs_popsan
def test_published_actor_has_no_flip_against_float64() -> None:
    from benchmarks.arithmetic import SHARED, Recorder
    from sb3_spiking import load_popsan

    actor = load_popsan(SHARED, "HalfCheetah-v4", buffer_size=1, device="cpu").actor.mu
    assert isinstance(actor, PopulationActor)
    obs = torch.randn(512, 17, generator=torch.Generator().manual_seed(0))
    _, ours = Recorder(actor, "exact")(obs)
    _, reference = Recorder(actor, "float64", "exact")(obs)
    _, rounded = Recorder(actor, "bf16")(obs)
    assert torch.equal(ours, reference)
    assert 1e-4 < float((rounded != ours).float().mean()) < 1e-2


@NEEDS_NUMBA
def test_the_cache_is_whole_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights(4, 6)
    cached = matmul.WeightCache()
    cached(w)
    w.mul_(3.0)

    def interrupted(_weight: Tensor) -> matmul.SplitWeight:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(matmul, "_compiled_split", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cached(w)
    assert torch.equal(cached(w).scale, matmul.split(w).scale)


def test_scratch_memory_belongs_to_a_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from policies.kernels.scratch import scratch

    cpu = torch.device("cpu")

    def address() -> int:
        return scratch("a test", (8,), torch.float32, cpu).data_ptr()

    here = address()
    assert address() == here
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(address).result() != here


def test_scratch_memory_from_inference_mode_serves_elsewhere() -> None:
    torch.manual_seed(0)
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=(777,))).eval()
    obs = torch.randn(40, 3)
    with torch.inference_mode():
        expected = actor(obs).clone()
    out = actor(obs)
    out.sum().backward()
    assert torch.equal(out, expected)
