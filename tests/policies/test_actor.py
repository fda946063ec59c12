import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from policies.actor import PopulationActor
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    NeuronConfig,
    PopulationActorConfig,
)
from policies.neurons import LIF, CurrentLIF
from policies.spiking_mlp import SpikingMLP
from policies.surrogate import SURROGATES, Surrogate
from tests.common import DATA, POPSAN_FILE, needs_popsan, popsan_parameters
from tests.policies import reference


def small_actor() -> tuple[PopulationActor, dict[str, NDArray[np.float64]]]:
    """The actor of tests/data/popsan_small.npz and the file's arrays."""
    file = dict(np.load(DATA / "popsan_small.npz"))
    config = PopulationActorConfig(
        hidden_sizes=(16, 12),
        encoder=EncoderConfig(pop_size=4),
        decoder=DecoderConfig(pop_size=4),
        normalize=False,
    )
    actor = PopulationActor(3, 2, config)
    weights = {
        k[7:]: torch.from_numpy(v).float() for k, v in file.items() if k.startswith("weight.")
    }
    actor.load_state_dict(weights)
    return actor, file


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_file_is_what_the_numpy_reference_gives() -> None:
    file = dict(np.load(DATA / "popsan_small.npz"))
    p = {k[7:]: v for k, v in file.items() if k.startswith("weight.")}
    trace = reference.forward(p, file["obs"], 5)
    np.testing.assert_allclose(trace.action, file["action"], atol=1e-14)
    grads = reference.backward(p, file["obs"], trace, file["probe"])
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, file[f"grad.{name}"], rtol=1e-10, atol=1e-14)
        assert np.abs(grad).max() > 1e-3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_and_gradients_equal_the_numpy_reference(dtype: torch.dtype) -> None:
    actor, file = small_actor()
    actor.to(dtype)
    action = actor(torch.from_numpy(file["obs"]).to(dtype))
    (action * torch.from_numpy(file["probe"]).to(dtype)).sum().backward()
    action_error = np.abs(action.detach().numpy() - file["action"]).max()
    assert action_error < (1e-6 if dtype == torch.float32 else 1e-13)
    for name, parameter in actor.named_parameters():
        assert parameter.grad is not None, name
        expected = file[f"grad.{name}"]
        error = np.abs(parameter.grad.numpy() - expected).max() / np.abs(expected).max()
        assert error < (1e-5 if dtype == torch.float32 else 1e-12), (name, error)


@needs_popsan
def test_published_actions_and_gradients(threads: int) -> None:
    file = np.load(POPSAN_FILE)
    actor = PopulationActor(17, 6, PopulationActorConfig(normalize=False))
    actor.load_state_dict(popsan_parameters(file))
    errors = []
    for name in ("traj", "batch"):
        action = actor(torch.from_numpy(file[f"{name}_obs"]))
        difference = action.detach() - torch.from_numpy(file[f"{name}_action"])
        errors.append(float(difference.abs().max()))
    (action * torch.from_numpy(file["batch_probe"])).sum().backward()
    gradients = popsan_parameters(file, "grad.")
    relative = {}
    for name, parameter in actor.named_parameters():
        assert parameter.grad is not None, name
        difference = (parameter.grad - gradients[name]).abs().max()
        relative[name] = float(difference / gradients[name].abs().max())
    print(f"{threads} threads: actions {max(errors):.1e}, gradients {max(relative.values()):.1e}")
    assert max(errors) < 1e-6
    assert max(relative.values()) < 1e-5, relative


@pytest.mark.parametrize("neuron", [CurrentLIFConfig(), LIFConfig(reset_mode="soft")], ids=repr)
@pytest.mark.parametrize("name", SURROGATES)
def test_gradients_equal_finite_differences_of_the_smooth_network(
    name: str, neuron: NeuronConfig
) -> None:
    """With every hard step replaced by its smooth one, autograd must match finite differences.

    The hard network runs the same code but for the step's value, and test_surrogate checks that its
    backward is the smooth step's derivative.
    """
    torch.manual_seed(0)
    config = PopulationActorConfig(
        hidden_sizes=(6, 5), spike_steps=3, encoder=EncoderConfig(pop_size=3, kind="analog"),
        neuron=neuron,
    )  # fmt: skip
    actor = PopulationActor(2, 2, config).double().eval()
    surrogate = Surrogate(name, 1.5)
    for layer in actor.modules():
        if isinstance(layer, LIF | CurrentLIF):
            layer.spike_fn = surrogate.smooth
    obs = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    names = [n for n, _ in actor.named_parameters()]

    def call(obs: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(names, values, strict=True))
        out = torch.func.functional_call(actor, parameters, (obs,))
        assert isinstance(out, torch.Tensor)
        return out

    values = [p.detach().clone().requires_grad_() for p in actor.parameters()]
    assert torch.autograd.gradcheck(call, (obs, *values), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_every_parameter_gets_a_gradient(kind: str, readout: str) -> None:
    torch.manual_seed(0)
    config = PopulationActorConfig(
        hidden_sizes=(32, 24),
        encoder=EncoderConfig(kind=kind),  # type: ignore[arg-type]  # parametrized
        decoder=DecoderConfig(kind=readout),  # type: ignore[arg-type]  # parametrized
    )
    actor = PopulationActor(3, 2, config)
    actor(torch.randn(256, 3)).sum().backward()
    for name, parameter in actor.named_parameters():
        assert parameter.grad is not None, name
        # A unit may be silent or saturated for all samples; most must learn.
        assert (parameter.grad != 0).float().mean() > 0.5, name


def test_one_matmul_a_layer_whatever_the_spike_steps() -> None:
    class Count(TorchDispatchMode):
        matmuls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's hook
            names = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_int_mm")
            self.matmuls += func._schema.name in names
            return func(*args, **(kwargs or {}))

    for steps, kernel, matmul in itertools.product(
        (1, 5, 16), ("torch", "fused", "auto"), ("float32", "exact", "bf16")
    ):
        config = PopulationActorConfig(spike_steps=steps, kernel=kernel, matmul=matmul)  # type: ignore[arg-type]  # product's
        actor = PopulationActor(3, 2, config).eval()
        with Count() as count, torch.no_grad():  # type: ignore[no-untyped-call]  # torch's
            actor(torch.randn(40, 3))
        assert count.matmuls == 3


def test_batch_statistics_never_reach_a_sample() -> None:
    actor = PopulationActor(3, 2)
    obs = torch.randn(64, 3)
    actor(obs)  # training mode: the statistics move
    actor.eval()
    before = copy.deepcopy(actor.state_dict())
    whole = actor(obs)
    shifted = torch.cat([obs[:1], 50 + obs[1:]])
    torch.testing.assert_close(actor(shifted)[0], whole[0], rtol=0, atol=1e-6)
    assert all(torch.equal(before[name], v) for name, v in actor.state_dict().items())


def count_flips(actor: PopulationActor, obs: torch.Tensor, batch: int) -> tuple[int, int, float]:
    """Flipped spikes, compared spikes, and the largest action difference of unflipped samples."""
    layers = [m for m in actor.modules() if isinstance(m, LIF | CurrentLIF)]
    record: list[torch.Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda _m, _a, out: record.append(out[0]))

    def call(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        record.clear()
        action = actor(x)
        return action, torch.cat(record, dim=2)

    with torch.no_grad():
        action, spikes = call(obs)
        parts = [call(part) for part in obs.split(batch)]
    flips = torch.cat([s for _, s in parts], dim=1) != spikes
    difference = (torch.cat([a for a, _ in parts]) - action).abs().amax(dim=1)
    clean = ~flips.any(dim=2).any(dim=0)
    return int(flips.sum()), flips.numel(), float(difference[clean].max())


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_a_sample_does_not_depend_on_its_batch(batch: int, threads: int) -> None:
    torch.manual_seed(0)
    if POPSAN_FILE.is_file():
        actor = PopulationActor(17, 6, PopulationActorConfig(normalize=False))
        actor.load_state_dict(popsan_parameters(np.load(POPSAN_FILE)))
    else:
        actor = PopulationActor(17, 6)
    flips, spikes, difference = count_flips(actor.eval(), torch.randn(256, 17), batch)
    print(f"batch {batch} against 256, {threads} threads: {flips} of {spikes} spikes flipped")
    assert difference <= 1e-6
    # PyTorch's float32 matmul may round differently by batch size; more than this is a fault.
    assert flips <= 1e-5 * spikes


def fresh_actor(**config: Any) -> tuple[PopulationActor, torch.Tensor]:
    torch.manual_seed(0)
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=(16, 16), **config)).eval()
    return actor, torch.randn(6, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["deterministic", "poisson", "analog"])
def test_a_broken_weight_anywhere_reaches_the_output(bad: float, kind: str) -> None:
    """Comparisons swallow NaN; without care an actor with NaN weights gives plausible actions."""
    config: dict[str, Any] = {"encoder": EncoderConfig(kind=kind)}  # type: ignore[arg-type]  # parametrized
    for name, value in fresh_actor(**config)[0].state_dict().items():
        if name.endswith(("mean_error", "count", "fixed")):
            continue  # not used by a forward
        actor, obs = fresh_actor(**config)
        with torch.no_grad():
            actor.state_dict()[name].view(-1)[0] = bad
        assert value.isfinite().all()
        assert actor(obs).isnan().any(), name


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["deterministic", "analog"])
def test_a_broken_observation_reaches_its_own_action_only(normalize: bool, kind: str) -> None:
    actor, obs = fresh_actor(normalize=normalize, encoder=EncoderConfig(kind=kind))  # type: ignore[arg-type]  # parametrized
    expected = actor(obs)
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = obs.clone()
        broken[4, 1] = bad
        action = actor(broken)
        assert action[4].isnan().all()
        assert torch.equal(action[[0, 1, 2, 3, 5]], expected[[0, 1, 2, 3, 5]])


def test_the_normalizer_learns_before_it_is_used() -> None:
    actor, obs = fresh_actor()
    assert actor.normalizer is not None
    obs = 40 + 7 * obs
    expected = ((obs - obs.mean(0)) / obs.std(0, correction=0)).clamp(-3, 3)
    seen = []
    actor.encoder.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    actor.train()(obs)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_the_normalizer_learns_with_gradients_only() -> None:
    actor, obs = fresh_actor()
    assert actor.normalizer is not None
    with torch.no_grad():
        actor.train()(obs)
    assert actor.normalizer.running_count.item() == 0


def test_the_normalizer_clips_at_the_encoders_range() -> None:
    actor, _ = fresh_actor(encoder=EncoderConfig(field_range=2.0))
    assert actor.normalizer is not None
    assert actor.normalizer(torch.full((1, 3), 9.0)).tolist() == [[2.0] * 3]


@pytest.mark.parametrize("kind", ["rate", "membrane"])
def test_bfloat16_autocast_keeps_state_and_readout_in_float32(kind: str) -> None:
    actor, obs = fresh_actor(decoder=DecoderConfig(kind=kind, v_decay=0.8))  # type: ignore[arg-type]  # parametrized
    expected = actor(obs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        action = actor(obs)
    assert action.dtype == torch.float32
    assert (action - expected).abs().max() < 0.3  # spikes flip, nothing breaks
    action.sum().backward()
    assert all(p.grad is not None for p in actor.parameters())


def test_the_whole_graph_can_be_exported() -> None:
    """No branch depends on data, so tracing and compiling need no graph break."""
    _, obs = fresh_actor()
    # An exported graph computes in float32.
    actor = PopulationActor(obs.shape[1], 2, PopulationActorConfig(matmul="float32")).eval()
    exported = torch.export.export(actor, (obs,)).module()
    assert torch.equal(exported(obs), actor(obs))


def test_an_empty_batch_and_float64_observations() -> None:
    actor, obs = fresh_actor()
    assert actor.train()(obs[:0]).shape == (0, 2)
    assert torch.equal(actor.eval()(obs.double()), actor(obs))


def test_two_actors_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    a, b = PopulationActor(3, 2).eval(), PopulationActor(3, 2).eval()
    obs = torch.randn(5, 3)
    alone = a(obs)
    for _ in range(3):
        b(torch.randn(9, 3)).sum().backward()
    assert torch.equal(a(obs), alone)
    assert all(p.grad is None for p in a.parameters())


def test_mlp_refuses_wrong_input() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        SpikingMLP([5])
    with pytest.raises(ValueError, match=r"\[T, B, N\].*got \(4, 5\)"):
        SpikingMLP([5, 2])(torch.zeros(4, 5))


def test_no_hidden_layer_is_allowed() -> None:
    actor = PopulationActor(3, 2, PopulationActorConfig(hidden_sizes=()))
    assert actor(torch.randn(4, 3)).shape == (4, 2)
