import math
from typing import Any

import pytest
import torch

from policies.config import DecoderConfig, EncoderConfig
from policies.population import PopulationDecoder, PopulationEncoder


def single(
    activation: float, steps: int, kind: str = "deterministic", v_init: float = 0.0
) -> PopulationEncoder:
    """One receptive field that answers the observation 0 with `activation`."""
    config = EncoderConfig(pop_size=1, kind=kind, v_init=v_init)  # type: ignore[arg-type]  # parametrized
    encoder = PopulationEncoder(1, steps, config)
    with torch.no_grad():
        encoder.mean.fill_(math.sqrt(-2 * math.log(activation)))
        encoder.std.fill_(1.0)
    return encoder


def test_receptive_fields_by_formula() -> None:
    encoder = PopulationEncoder(2, 5)
    obs = torch.tensor([[0.5, -2.0]])
    activation = encoder.activation(obs)
    assert activation.shape == (1, 20)
    for d, value in enumerate([0.5, -2.0]):
        for j in range(10):
            mean = -3 + 6 * j / 9
            expected = math.exp(-0.5 * (value - mean) ** 2 / 0.15)
            assert activation[0, d * 10 + j].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("activation", "spikes"),
    [
        (0.3, [0, 0, 0, 1, 0, 0, 1, 0]),  # sums .3 .6 .9 1.2 -> .201 .501 .801 1.101 -> .102 .402
        (0.5, [0, 1, 0, 1, 0, 1, 0, 1]),  # 1.0 > 0.999, rest .001, .501, 1.001, ...
        (1.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (0.124, [0, 0, 0, 0, 0, 0, 0, 0]),  # 8 x .124 = .992
        (0.126, [0, 0, 0, 0, 0, 0, 0, 1]),  # 8 x .126 = 1.008
    ],
)
def test_deterministic_spikes_by_hand(activation: float, spikes: list[int]) -> None:
    out = single(activation, 8)(torch.zeros(1, 1))
    assert out.flatten().tolist() == spikes


@pytest.mark.parametrize(
    ("v_init", "activation", "spikes"),
    [
        # .4995 at the start: .7995 1.0995 -> .1005 .4005 .7005 1.0005 -> .0015 .3015 .6015 .9015
        (0.5, 0.3, [0, 1, 0, 0, 1, 0, 0, 0]),
        (0.5, 0.5, [1, 0, 1, 0, 1, 0, 1, 0]),  # .9995 > 0.999, rest .0005, .5005, 1.0005, ...
        (0.5, 1.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (0.5, 0.062, [0, 0, 0, 0, 0, 0, 0, 0]),  # .4995 + 8 x .062 = .9955
        (0.5, 0.063, [0, 0, 0, 0, 0, 0, 0, 1]),  # .4995 + 8 x .063 = 1.0035
        (0.9, 0.11, [1, 0, 0, 0, 0, 0, 0, 0]),  # .8991 + .11 = 1.0091, rest .0101 + 7 x .11
    ],
)
def test_a_charged_start_by_hand(v_init: float, activation: float, spikes: list[int]) -> None:
    out = single(activation, 8, v_init=v_init)(torch.zeros(1, 1))
    assert out.flatten().tolist() == spikes


@pytest.mark.parametrize(("v_init", "rounded"), [(0.0, torch.floor), (0.5, torch.round)])
def test_spikes_count_the_activation_down_or_to_nearest(v_init: float, rounded: Any) -> None:
    encoder = PopulationEncoder(20, 5, EncoderConfig(v_init=v_init))
    obs = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    ratio = encoder.activation(obs).double() * 5 / 0.999
    expected = rounded(ratio).clamp_max(5)
    # Beside a tie float32 may fall to the other side.
    clear = ((ratio + 1 - v_init).frac().sub(0.5).abs() < 0.499) | (ratio < 0.4)
    assert float(clear.double().mean()) > 0.9
    counts = encoder(obs).sum(dim=0).double()
    assert torch.equal(counts[clear], expected[clear])
    assert set(counts.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_charged_start_adds_no_state() -> None:
    assert PopulationEncoder(3, 5, EncoderConfig(v_init=0.5)).state_dict().keys() == (
        PopulationEncoder(3, 5).state_dict().keys()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_charged_start_in_other_dtypes(dtype: torch.dtype) -> None:
    encoder, obs = single(0.3, 8, v_init=0.5).to(dtype), torch.zeros(1, 1, dtype=dtype)
    spikes, a, v = encoder(obs), encoder.activation(obs).item(), 0.4995
    assert spikes.dtype == dtype
    for spike in spikes.flatten().tolist():
        v += a
        assert spike == float(v > 0.999)
        v -= 0.999 * spike


@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_gradient_of_the_soft_reset_by_hand(v_init: float) -> None:
    # ds_t/da = g_t with g_1 = 1 and g_t = 1 + (1 - 0.999) g_(t-1), from wherever v starts.
    encoder = PopulationEncoder(1, 4, EncoderConfig(pop_size=1, v_init=v_init)).double()
    obs = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    out = encoder(obs)
    a = encoder.activation(obs)
    (da,) = torch.autograd.grad(a.sum(), obs)
    (grad,) = torch.autograd.grad((out.flatten() * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), obs)
    g = [1.0]
    for _ in range(3):
        g.append(1 + 0.001 * g[-1])
    expected = sum(w * x for w, x in zip([1.0, 2.0, 3.0, 4.0], g, strict=True)) * da.item()
    assert grad.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["deterministic", "poisson", "analog"])
def test_both_parameters_learn_in_each_kind(kind: str) -> None:
    torch.manual_seed(0)
    encoder = PopulationEncoder(3, 5, EncoderConfig(kind=kind))  # type: ignore[arg-type]  # parametrized
    weight = torch.randn(5, 8, 30)
    obs = torch.randn(8, 3)
    (encoder(obs) * weight).sum().backward()
    activation = encoder.activation(obs)
    scale = weight.sum(0)
    if kind == "deterministic":
        g = torch.ones(5)
        for t in range(1, 5):
            g[t] = 1 + 0.001 * g[t - 1]
        scale = torch.tensordot(g, weight, dims=1)
    expected = torch.autograd.grad((activation * scale).sum(), [encoder.mean, encoder.std])
    for parameter, hand in zip([encoder.mean, encoder.std], expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, hand, rtol=1e-4, atol=1e-5)
        assert (parameter.grad.abs() > 0).all()


def test_poisson_draws_at_the_activations_rate() -> None:
    torch.manual_seed(0)
    out = single(0.3, 20_000, "poisson")(torch.zeros(1, 1))
    assert set(out.unique().tolist()) == {0.0, 1.0}
    # standard error sqrt(.21 / 20000) = .0032
    assert out.mean().item() == pytest.approx(0.3, abs=0.013)


def test_poisson_never_fires_at_zero_and_always_at_one() -> None:
    encoder = single(1.0, 1000, "poisson")
    assert encoder(torch.zeros(1, 1)).min() == 1.0
    assert encoder(torch.full((1, 1), 100.0)).max() == 0.0


def test_poisson_follows_the_seed_and_has_a_deterministic_form() -> None:
    encoder = PopulationEncoder(4, 5, EncoderConfig(kind="poisson"))
    regular = PopulationEncoder(4, 5)
    obs = torch.randn(6, 4)
    torch.manual_seed(3)
    first = encoder(obs)
    assert not torch.equal(first, encoder(obs))
    torch.manual_seed(3)
    assert torch.equal(first, encoder(obs))
    assert torch.equal(encoder(obs, deterministic=True), regular(obs))


def test_poisson_draws_do_not_see_the_start_but_the_deterministic_form_does() -> None:
    obs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    spikes = []
    for v_init in (0.0, 0.5):
        torch.manual_seed(3)
        encoder = PopulationEncoder(4, 5, EncoderConfig(kind="poisson", v_init=v_init))
        spikes.append((encoder(obs), encoder(obs, deterministic=True)))
        regular = PopulationEncoder(4, 5, EncoderConfig(v_init=v_init))
        assert torch.equal(spikes[-1][1], regular(obs))
    assert torch.equal(spikes[0][0], spikes[1][0])
    assert not torch.equal(spikes[0][1], spikes[1][1])


def test_analog_repeats_the_activation() -> None:
    encoder = PopulationEncoder(2, 5, EncoderConfig(kind="analog"))
    obs = torch.randn(3, 2)
    out = encoder(obs)
    assert out.shape == (5, 3, 20)
    assert torch.equal(out, encoder.activation(obs).expand(5, 3, 20))


def test_a_std_of_zero_gives_no_nan() -> None:
    encoder = PopulationEncoder(1, 2)
    with torch.no_grad():
        encoder.std.zero_()
    out = encoder(torch.zeros(1, 1))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert encoder.mean.grad is not None
    assert torch.isfinite(encoder.mean.grad).all()


@pytest.mark.parametrize("kind", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_not_swallowed(bad: float, kind: str) -> None:
    obs = torch.zeros(5, 3)
    obs[4, 2] = bad
    encoder = PopulationEncoder(3, 5, EncoderConfig(kind=kind))  # type: ignore[arg-type]  # parametrized
    broken = encoder(obs).isnan().any(dim=2)
    assert broken[:, 4].all()
    assert not broken[:, :4].any()


def test_narrow_fields_keep_their_width() -> None:
    encoder = PopulationEncoder(1, 1, EncoderConfig(pop_size=1, std=0.05))
    activation = encoder.activation(torch.tensor([[0.1]])).item()
    assert activation == pytest.approx(math.exp(-0.5 * (0.1 / 0.05) ** 2), rel=1e-4)


def test_decoder_starts_like_popsans_grouped_convolution() -> None:
    torch.manual_seed(0)
    readout = PopulationDecoder(500, 5, DecoderConfig(pop_size=16))
    for parameter in (readout.weight, readout.bias):
        assert 0.24 < parameter.abs().max() <= 0.25  # 1 / sqrt(16)


def test_encoder_refuses_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[B, 3\].*got \(2, 4\)"):
        PopulationEncoder(3, 5)(torch.zeros(2, 4))


def decoder(kind: str, v_decay: float = 1.0) -> PopulationDecoder:
    torch.manual_seed(0)
    return PopulationDecoder(2, 5, DecoderConfig(pop_size=3, kind=kind, v_decay=v_decay))  # type: ignore[arg-type]  # parametrized


def test_rate_decoder_by_hand() -> None:
    readout = decoder("rate")
    with torch.no_grad():
        readout.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]]))
        readout.bias.copy_(torch.tensor([0.25, -0.5]))
    spikes = torch.zeros(4, 1, 6)
    spikes[0, 0, [0, 3]] = 1
    spikes[1, 0, [0, 5]] = 1
    spikes[3, 0, 2] = 1
    # rates .5 0 .25 | .25 0 .25
    assert readout(spikes).flatten().tolist() == pytest.approx([0.5 + 0.75 + 0.25, -0.25 + 1 - 0.5])


@pytest.mark.parametrize("v_decay", [1.0, 0.8, 0.0])
def test_membrane_decoder_equals_its_recursion(v_decay: float) -> None:
    readout = decoder("membrane", v_decay)
    spikes = (torch.rand(5, 7, 6) < 0.4).float()
    u = torch.zeros(7, 2)
    for s in spikes:
        u = v_decay * u + (s.view(7, 2, 3) * readout.weight).sum(-1) + readout.bias
    torch.testing.assert_close(readout(spikes), u)


def test_each_action_reads_its_own_population() -> None:
    readout = decoder("rate")
    spikes = torch.zeros(5, 1, 6)
    base = readout(spikes)
    spikes[:, :, :3] = 1
    changed = readout(spikes)
    assert changed[0, 0] != base[0, 0]
    assert changed[0, 1] == base[0, 1]


def test_decoder_refuses_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[T, B, 6\].*got \(5, 2, 7\)"):
        decoder("rate")(torch.zeros(5, 2, 7))
