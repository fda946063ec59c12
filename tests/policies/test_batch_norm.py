"""Batch normalization of currents: by hand in float64, by kernel, folded, and what it must keep."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import actor as actor_module
from policies.actor import PopulationActor
from policies.batch_norm import CurrentNorm
from policies.config import EncoderConfig, PopulationActorConfig
from policies.distributed import share_statistics
from policies.energy import count_operations
from policies.energy.loihi_network import chip_network
from policies.event_driven import EventDrivenActor
from policies.kernels.batch_norm import EPS, Moments, moments
from policies.kernels.choice import Kernel, Matmul
from policies.monitor import diagnose, probe
from policies.recalibration import recalibrate
from policies.spiking_mlp import SpikingMLP
from tests.kernels import NEEDS_NUMBA, NUMBA

KERNELS = ["torch", "fused", NUMBA]


def make(**settings: Any) -> PopulationActor:
    torch.manual_seed(0)
    config = {"hidden_sizes": (24, 16), "batch_norm": True, **settings}
    return PopulationActor(5, 3, PopulationActorConfig(**config))


def observations(rows: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def loss(actor: PopulationActor, obs: Tensor) -> Tensor:
    values: Tensor = actor(obs)
    return (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum()


def trained(**settings: Any) -> PopulationActor:
    """An actor whose gains, biases and statistics are no longer those of its start."""
    actor = make(**settings)
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)
    for seed in range(5):
        optimizer.zero_grad()
        loss(actor, observations(seed=seed)).backward()
        optimizer.step()
    return actor


def test_statistics_of_a_batch_by_hand() -> None:
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    found = moments(x)
    values = x.numpy()
    for n in range(3):
        column = values[:, :, n]
        by_sample = column.mean(axis=0)
        deviations = ((column - column.mean()) ** 2).mean(axis=0)
        expected = [
            column.mean(),
            column.var(),
            by_sample.var(ddof=1) / 6,
            deviations.var(ddof=1) / 6,
        ]
        np.testing.assert_allclose([part[n].item() for part in found], expected, rtol=1e-12)


def test_training_normalizes_by_the_batch() -> None:
    norm = CurrentNorm(3, 0.25).double()
    x = torch.randn(4, 6, 3, dtype=torch.float64) * 3 - 1
    y = norm(x, torch.tensor([0.5, 0.0, -1.0], dtype=torch.float64))
    flat = y.detach().flatten(0, 1)
    torch.testing.assert_close(flat.mean(dim=0), torch.tensor([0.5, 0.0, -1.0]).double())
    spread = x.flatten(0, 1).var(dim=0, correction=0)
    expected = 0.25 * (spread / (spread + EPS)).sqrt()
    torch.testing.assert_close(flat.std(dim=0, correction=0), expected)


def test_gradients_by_finite_differences() -> None:
    norm = CurrentNorm(2, 0.25).double()
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x, bias))


@pytest.mark.parametrize("encoder", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize(
    ("matmul", "tolerance"), [("exact", 1e-5), ("float32", 1e-5), ("bf16", 0.02)]
)
@pytest.mark.parametrize("kernel", ["fused", NUMBA])
def test_kernels_train_as_the_plain_modules(
    kernel: Kernel, matmul: Matmul, tolerance: float, encoder: Any
) -> None:
    results = []
    for chosen in ("torch", kernel):
        actor = make(kernel=chosen, matmul=matmul, encoder=EncoderConfig(kind=encoder))
        torch.manual_seed(1)  # Poisson draws
        obs = observations().requires_grad_()
        loss(actor, obs).backward()
        tensors = {"obs": obs, **dict(actor.named_parameters())}
        gradients = {n: p.grad for n, p in tensors.items() if p.grad is not None}
        results.append((gradients, actor.state_dict()))
    (gradients, state), (plain_gradients, plain_state) = results[1], results[0]
    assert gradients.keys() == plain_gradients.keys()
    assert {f"mlp.linears.{layer}.norm.gain" for layer in range(3)} < gradients.keys()
    for name, plain in plain_gradients.items():
        assert plain is not None
        ours = gradients[name]
        assert ours is not None
        if not name.endswith("bias") or "decoder" in name:
            assert float(plain.abs().max()) > 0, name
        assert float((ours - plain).abs().max()) <= tolerance * float(plain.abs().max()), name
    for name, value in plain_state.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)


def test_plain_modules_by_hand() -> None:
    """Forward of one layer in training: linear without bias, batch norm, neurons."""
    torch.manual_seed(0)
    mlp = SpikingMLP([7, 4], kernel="torch", batch_norm=True)
    spikes = (torch.rand(5, 9, 7) < 0.4).float()
    layer = mlp.layers()[0]
    with torch.no_grad():
        layer.bias.uniform_(-0.2, 0.4)
    raw = spikes @ layer.weight.t()
    flat = raw.detach().double().flatten(0, 1)
    var = flat.var(dim=0, correction=0)
    y = 0.25 * (raw.detach().double() - flat.mean(dim=0)) / (var + EPS).sqrt() + layer.bias.double()
    v = i = torch.zeros(9, 4, dtype=torch.float64)
    expected = []
    for current in y:
        i = 0.5 * i + current
        v = 0.75 * v + i
        expected.append((v > 0.5).float())
        v = torch.where(v > 0.5, 0.0, v)
    assert torch.equal(mlp(spikes).detach(), torch.stack(expected))
    assert 0 < torch.stack(expected).mean() < 1


@pytest.mark.parametrize("matmul", ["exact", "float32", "bf16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_elsewhere_it_is_a_constant_map(kernel: Kernel, matmul: Matmul) -> None:
    """Folded: the same actor without norms, with other weights."""
    actor = trained(kernel=kernel, matmul=matmul)
    plain = make(kernel=kernel, matmul=matmul, batch_norm=False)
    state = actor.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    with torch.no_grad():
        for ours, theirs in zip(actor.mlp.layers(), plain.mlp.layers(), strict=True):
            norm = ours.norm
            assert norm is not None
            scale = norm.gain.double() / (norm.moving_var.double() + EPS).sqrt()
            theirs.weight.copy_(ours.weight.double() * scale[:, None])
            theirs.bias.copy_(ours.bias.double() - norm.moving_mean.double() * scale)
            weight, bias = ours.folded()
            torch.testing.assert_close(weight, theirs.weight, rtol=1e-6, atol=0)
            theirs.weight.copy_(weight)  # the last bits
            theirs.bias.copy_(bias)
    obs = observations()
    with torch.no_grad():
        as_target = actor.train()(obs)  # as SAC asks for targets: training mode, no gradients
        state_before = copy.deepcopy(actor.state_dict())
        assert torch.equal(actor.eval()(obs), plain.eval()(obs))
        assert torch.equal(as_target, plain(obs))
    for name, value in actor.state_dict().items():
        assert torch.equal(value, state_before[name]), name
    assert torch.equal(actor(obs).detach(), as_target)  # with gradients, in evaluation mode


def test_gradients_in_evaluation_mode_reach_the_gains() -> None:
    results = []
    for kernel in ("torch", "fused"):
        actor = trained(kernel=kernel).eval()
        actor.zero_grad()
        before = copy.deepcopy(actor.state_dict())
        loss(actor, observations()).backward()
        assert all(torch.equal(before[name], x) for name, x in actor.state_dict().items())
        results.append([layer.norm.gain.grad for layer in actor.mlp.layers() if layer.norm])
    for plain, ours in zip(*results, strict=True):
        assert plain is not None
        assert plain.abs().max() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


@NEEDS_NUMBA
def test_event_driven_decisions_are_equal_and_follow() -> None:
    actor = trained().eval()
    obs = observations(4)
    filler = torch.zeros(actor_module.EVENT_DRIVEN_BATCH, 5)

    def check() -> Tensor:
        with torch.no_grad():
            few: Tensor = actor(obs)
            many = actor(torch.cat([obs, filler]))[:4]
        assert torch.equal(few, many)
        frozen = EventDrivenActor(actor)(obs.numpy())
        np.testing.assert_array_equal(frozen, few.numpy())
        return few

    seen = [check()]
    norm = actor.mlp.layers()[1].norm
    assert norm is not None
    for tensor in (norm.gain, norm.moving_mean, norm.moving_var):
        tensor.data.mul_(1.5).add_(0.1)
        seen.append(check())
        assert not torch.equal(seen[-1], seen[-2])


def test_off_changes_nothing() -> None:
    torch.manual_seed(0)
    plain = PopulationActor(5, 3, PopulationActorConfig(hidden_sizes=(24, 16)))
    assert not any("norm." in name for name in plain.mlp.state_dict())
    with_norm = make()
    assert set(plain.state_dict()) < set(with_norm.state_dict())
    assert torch.equal(plain.mlp.layers()[1].weight, with_norm.mlp.layers()[1].weight)
    with pytest.raises(TypeError, match="batch_norm must be True or False, got 1"):
        PopulationActorConfig(batch_norm=1)  # type: ignore[arg-type]


def test_first_statistics_draw_nothing_and_let_every_layer_fire() -> None:
    torch.manual_seed(3)
    make_state = torch.get_rng_state()
    PopulationActor(5, 3, PopulationActorConfig(hidden_sizes=(24, 16), normalize=False))
    after_plain = torch.get_rng_state()
    torch.set_rng_state(make_state)
    config = PopulationActorConfig(
        hidden_sizes=(24, 16),
        normalize=False,
        batch_norm=True,
        encoder=EncoderConfig(kind="poisson"),
    )
    PopulationActor(5, 3, config)
    assert torch.equal(torch.get_rng_state(), after_plain)
    for obs_dim, sizes in ((3, (64, 64)), (17, (256, 256)), (60, (400, 300, 200))):
        torch.manual_seed(0)
        actor = PopulationActor(
            obs_dim, 6, PopulationActorConfig(hidden_sizes=sizes, batch_norm=True)
        )
        rates = count_operations(actor, torch.randn(200, obs_dim)).firing_rates
        assert len(rates) == len(sizes) + 2
        assert all(0.05 < rate < 0.5 for rate in rates.values()), rates


def test_one_sample_has_no_statistics() -> None:
    actor = trained()
    obs = observations(1)
    before = copy.deepcopy(actor.mlp.state_dict())
    values = actor(obs)
    values.sum().backward()
    assert all(torch.equal(before[name], x) for name, x in actor.mlp.state_dict().items())
    with torch.no_grad():
        assert torch.equal(actor.eval()(obs), values.detach())
    actor.train()(observations(0))  # an empty batch
    assert all(torch.equal(before[name], x) for name, x in actor.mlp.state_dict().items())


@pytest.mark.parametrize("kernel", KERNELS)
def test_statistics_stay_finite(kernel: Kernel) -> None:
    """A broken observation counts as one without spikes; a broken weight moves nothing."""
    actor = trained(kernel=kernel)
    obs = observations()
    obs[3, 2] = torch.nan
    values = actor(obs)
    assert values[3].isnan().all()
    assert values[:3].isfinite().all()
    assert all(x.isfinite().all() for x in actor.mlp.state_dict().values())
    actor.mlp.layers()[0].weight.data[1, 1] = torch.nan
    before = copy.deepcopy([layer.norm for layer in actor.mlp.layers()])
    assert actor(observations()).isnan().all()
    first, norm = before[0], actor.mlp.layers()[0].norm
    assert first is not None
    assert norm is not None
    for name, value in first.state_dict().items():
        assert torch.equal(value, norm.state_dict()[name]), name


def test_recalibration_is_exact() -> None:
    """Layer by layer, in float64, from all observations at once."""
    actor = trained().double()
    obs = observations(1200, seed=9).double()
    recalibrate(actor, [obs[:300], obs[300:301], obs[301:]])
    assert actor.normalizer is not None
    with torch.no_grad():
        spikes = actor.encoder(actor.normalizer(obs))
        for layer, neuron in zip(actor.mlp.layers(), actor.mlp.neurons, strict=True):
            norm = layer.norm
            assert norm is not None
            raw = (spikes @ layer.weight.t()).flatten(0, 1)
            torch.testing.assert_close(norm.moving_mean, raw.mean(dim=0))
            torch.testing.assert_close(norm.moving_var, raw.var(dim=0, correction=0))
            scale = norm.gain / (norm.moving_var + EPS).sqrt()
            y = (raw - norm.moving_mean) * scale + layer.bias
            spikes = neuron(y.unflatten(0, spikes.shape[:2]))[0]


def test_recalibrated_statistics_make_evaluation_and_training_agree() -> None:
    actor = trained()
    obs = observations(500)
    recalibrate(actor, obs.split(100))
    assert actor.normalizer is not None
    actor.normalizer.frozen = True
    with torch.no_grad():
        evaluated = actor.eval()(obs)
    normalized = actor.train()(obs).detach()
    assert float((evaluated - normalized).abs().mean()) < 1e-3


def test_recalibration_draws_nothing_and_refuses() -> None:
    actor = trained(encoder=EncoderConfig(kind="poisson"))
    state = torch.get_rng_state()
    recalibrate(actor, [observations()])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="at least two observations, got 1"):
        recalibrate(actor, [observations(1)])
    with pytest.raises(ValueError, match="must be finite"):
        recalibrate(actor, [observations() * torch.inf])
    with pytest.raises(ValueError, match="batch_norm=True"):
        recalibrate(make(batch_norm=False), [observations()])
    actor.mlp.layers()[1].weight.data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="currents became NaN or infinite"):
        recalibrate(actor, [observations()])


def test_copies_and_files_keep_everything() -> None:
    actor = trained()
    obs = observations()
    with torch.no_grad():
        expected = actor.eval()(obs)
        loaded = make().eval()
        loaded.load_state_dict(actor.state_dict())
        for other in (copy.deepcopy(actor), pickle.loads(pickle.dumps(actor)), loaded):
            assert torch.equal(other(obs), expected)
    other = copy.deepcopy(actor).train()
    loss(other, obs).backward()
    with torch.no_grad():
        assert torch.equal(actor(obs), expected)


def test_counts_as_its_folded_self() -> None:
    actor = trained().eval()
    count = count_operations(actor, observations())
    plain = make(batch_norm=False)
    state = actor.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    with torch.no_grad():
        for ours, theirs in zip(actor.mlp.layers(), plain.mlp.layers(), strict=True):
            weight, bias = ours.folded()
            theirs.weight.copy_(weight)
            theirs.bias.copy_(bias)
    assert count.layers == count_operations(plain, observations()).layers
    assert not count.uncounted
    chip, plain_chip = chip_network(actor), chip_network(plain)
    for name, array in chip.arrays.items():
        np.testing.assert_array_equal(array, plain_chip.arrays[name])


def test_watchers_change_nothing() -> None:
    actor = trained()
    before = copy.deepcopy(actor.state_dict())
    activity = probe(actor, lambda: actor(observations()))
    assert [layer.name for layer in activity.layers] == [f"mlp.neurons.{k}" for k in range(3)]
    assert not [finding for finding in diagnose(activity) if finding.lasting]
    assert all(torch.equal(before[name], x) for name, x in actor.state_dict().items())


def test_autocast_computes_in_bf16() -> None:
    actor, low = trained(), trained(matmul="bf16", matmul_backward="bf16")
    low.load_state_dict(actor.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        ours = loss(actor, observations())
        ours.backward()
    theirs = loss(low, observations())
    low.zero_grad()
    theirs.backward()
    for (name, value), other in zip(
        actor.mlp.state_dict().items(), low.mlp.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_twice_differentiable_by_the_plain_kernel() -> None:
    actor = make(kernel="torch", normalize=False).double()
    grads = torch.autograd.grad(
        loss(actor, observations().double()), actor.mlp.layers()[0].weight, create_graph=True
    )
    assert grads[0].requires_grad


def test_ranks_share_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of a batch, merged, are the whole batch; a rank without samples adds nothing."""
    from policies.distributed import statistics

    x = torch.randn(5, 12, 3, generator=torch.Generator().manual_seed(0))
    parts, sizes = [x[:, :4], x[:, 4:]], [4, 8]
    found = [moments(part) for part in parts]
    rows = [
        torch.stack([*one, torch.full((3,), float(size))])
        for one, size in zip(found, sizes, strict=True)
    ]
    monkeypatch.setattr(statistics, "gather", lambda _: torch.stack(rows))
    merged, count = statistics.merge_currents(found[0], sizes[0])
    whole = moments(x)
    assert count == 12
    torch.testing.assert_close(merged.mean, whole.mean)
    torch.testing.assert_close(merged.var, whole.var)
    expected = (found[0].mean_error + 4 * found[1].mean_error) / 9
    torch.testing.assert_close(merged.mean_error, expected)
    actor = make()
    share_statistics(actor)
    norm = actor.mlp.layers()[0].norm
    assert norm is not None
    assert norm.merge is statistics.merge_currents


def drifting(
    updates: int, drift: float, seed: int = 0, neurons: int = 64
) -> tuple[list[Moments], Tensor]:
    """Noisy batch statistics of a mean that walks by `drift` a step; noise of deviation 0.1."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.cumsum(drift * torch.randn(updates, neurons, generator=generator), dim=0)
    found = []
    for now in true:
        mean = now + 0.1 * torch.randn(neurons, generator=generator)
        var = 1.0 + 0.14 * torch.randn(neurons, generator=generator)
        error = torch.ones(neurons)
        found.append(Moments(mean, var, 0.01 * error, 0.02 * error))
    return found, true


@pytest.mark.parametrize("drift", [0.0, 0.01, 0.1, 1.0])
def test_the_filter_finds_its_momentum(drift: float) -> None:
    """Errors stay near those of the best constant momentum, whatever the drift."""
    found, true = drifting(1500, drift)
    norm = CurrentNorm(64, 0.25)
    errors = []
    for moment, now in zip(found, true, strict=True):
        norm.follow(moment, 100)
        errors.append(float((norm.moving_mean - now).square().mean()))
    # Steady state of a Kalman filter for a random walk, with p the error after a step.
    q, r = drift**2, 0.01
    best = (-q + (q * q + 4 * q * r) ** 0.5) / 2
    found_error = float(np.mean(errors[750:]))
    assert found_error < max(1.25 * best, 0.03 * r)
    assert float(norm.moving_var.sub(1.0).square().mean()) < 0.1 * 0.02


def test_the_first_batch_replaces_the_first_statistics() -> None:
    found, _ = drifting(1, 0.0)
    norm = CurrentNorm(64, 0.25)
    norm.follow(found[0], 100)
    torch.testing.assert_close(norm.moving_mean, found[0].mean, rtol=0.02, atol=0.01)


def fitted(batch_norm: bool) -> float:
    """Mean squared error after 300 updates towards a smooth function of three inputs."""
    torch.manual_seed(0)
    config = PopulationActorConfig(hidden_sizes=(32, 32), batch_norm=batch_norm, normalize=False)
    actor = PopulationActor(3, 1, config)
    optimizer = torch.optim.Adam(actor.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)

    def error(rows: int) -> Tensor:
        x = torch.randn(rows, 3, generator=generator)
        wanted = torch.sin(2 * x[:, 0]) * torch.tanh(x[:, 1]) * 0.5 + 0.3 * torch.tanh(x[:, 2])
        values: Tensor = actor(x)
        return (values[:, 0] - wanted).square().mean()

    for _ in range(300):
        optimizer.zero_grad()
        error(64).backward()
        optimizer.step()
    actor.eval()
    with torch.no_grad():
        return float(error(2000))


def test_it_learns_as_well_as_without() -> None:
    plain, normed = fitted(False), fitted(True)
    assert normed < 0.03
    assert normed < 1.1 * plain
