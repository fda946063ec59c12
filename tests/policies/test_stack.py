"""Kernels against the plain modules: equal spikes and actions, equal gradients up to rounding."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    NeuronConfig,
    PopulationActorConfig,
)
from policies.energy import count_operations
from policies.functional import LIFState, lif_sequence
from policies.kernels.choice import Kernel, Matmul, MatmulBackward, has_numba
from policies.kernels.neuron import load
from policies.spiking_mlp import SpikingMLP
from policies.surrogate import straight_through
from tests.kernels import NEEDS_NUMBA

KERNELS: tuple[Kernel, ...] = ("fused", "numba") if has_numba() else ("fused",)
FASTEST = KERNELS[-1]
NEURONS: dict[str, NeuronConfig] = {
    "popsan": CurrentLIFConfig(),
    "soft sigmoid": LIFConfig(reset_mode="soft", surrogate="sigmoid"),
    "soft current": CurrentLIFConfig(reset_mode="soft", i_decay=0.3, v_decay=0.9),
    "detached arctan": LIFConfig(detach_reset=True, surrogate="arctan"),
    "triangle": CurrentLIFConfig(surrogate="triangle", surrogate_width=0.7, v_threshold=0.3),
}
Run = tuple[Tensor, Tensor, dict[str, Tensor], Tensor]


def make(kernel: Kernel, **settings: Any) -> PopulationActor:
    torch.manual_seed(0)
    config = PopulationActorConfig(hidden_sizes=(24, 16), kernel=kernel, **settings)
    return PopulationActor(5, 3, config)


def run(actor: PopulationActor, obs: Tensor) -> Run:
    """Spikes, actions, gradients of parameters and of observations."""
    torch.manual_seed(1)  # Poisson draws
    with torch.no_grad():
        spikes = actor.eval().spikes(obs)
    torch.manual_seed(1)
    obs = obs.clone().requires_grad_()
    actions = actor.eval()(obs)
    (actions * torch.linspace(-1, 1, actions.numel()).view_as(actions)).sum().backward()
    gradients = {name: p.grad for name, p in actor.named_parameters() if p.grad is not None}
    assert obs.grad is not None
    return spikes, actions.detach(), gradients, obs.grad


def assert_close(ours: Tensor, reference: Tensor, tolerance: float, name: str = "") -> None:
    assert ours.dtype == reference.dtype
    assert float((ours - reference).abs().max()) <= tolerance * float(reference.abs().max()), name


def compare(kernel: Kernel, tolerance: float = 1e-5, **settings: Any) -> None:
    obs = torch.randn(33, 5, generator=torch.Generator().manual_seed(2)) * 2
    reference = run(make("torch", **settings), obs)
    ours = run(make(kernel, **settings), obs)
    assert 0.02 < float(reference[0].mean()) < 0.98
    assert torch.equal(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])
    assert ours[2].keys() == reference[2].keys()
    for name, gradient in reference[2].items():
        assert float(gradient.abs().max()) > 0, name
        assert_close(ours[2][name], gradient, tolerance, name)
    assert_close(ours[3], reference[3], tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_neurons(kernel: Kernel, neuron: str) -> None:
    compare(kernel, neuron=NEURONS[neuron], matmul="float32")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("encoder", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize("matmul", ["float32", "exact", "bf16"])
def test_encoders_and_arithmetics(kernel: Kernel, encoder: Any, matmul: Matmul) -> None:
    settings: dict[str, Any] = {"encoder": EncoderConfig(kind=encoder), "matmul": matmul}
    compare(kernel, matmul_backward="float32", **settings)
    # bf16 has 8 bits; the plain path rounds in other places.
    compare(kernel, tolerance=2e-2, matmul_backward="bf16", **settings)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("encoder", ["deterministic", "poisson"])
@pytest.mark.parametrize("matmul", ["float32", "exact", "bf16"])
def test_a_charged_start(kernel: Kernel, encoder: Any, matmul: Matmul) -> None:
    config = EncoderConfig(kind=encoder, v_init=0.3)
    compare(kernel, matmul_backward="float32", encoder=config, matmul=matmul)
    obs = torch.randn(33, 5, generator=torch.Generator().manual_seed(2)) * 2
    charged, regular = (
        make(kernel, encoder=config, matmul=matmul).eval(),
        make(kernel, encoder=EncoderConfig(kind=encoder), matmul=matmul).eval(),
    )
    plain = make("torch", encoder=config, matmul=matmul).eval()
    with torch.no_grad():
        spikes = charged.spikes(obs, deterministic=True)
        assert torch.equal(spikes, plain.spikes(obs, deterministic=True))
        assert not torch.equal(spikes, regular.spikes(obs, deterministic=True))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("v_init", [0.0, 0.3, 0.5, 0.99])
def test_encoders_start_at_the_same_number(kernel: Kernel, v_init: float) -> None:
    """Activations that reach the threshold at step 1 to 5, or miss it by a few last bits."""
    config = EncoderConfig(v_init=v_init)
    gap = (config.v_threshold - config.v_start) / torch.arange(1, 6, dtype=torch.float64)
    activation = (gap[:, None] + torch.arange(-20, 20) * 2.0**-24).float()
    integrator = LIFConfig(v_decay=1.0, v_threshold=config.v_threshold, reset_mode="soft")
    start = LIFState(torch.full_like(activation, config.v_start))
    expected, _ = lif_sequence(activation.expand(5, -1, -1), start, integrator, straight_through)
    for t in range(5):  # the edge is among them
        assert 0 < float(expected[t, t].sum()) < 40
    for dtype in (torch.float32, torch.int8, torch.bfloat16):
        ours = load(kernel).encode(activation, 5, config.v_threshold, config.v_start, dtype)
        assert ours.dtype == dtype
        assert torch.equal(ours.float(), expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_shapes(kernel: Kernel) -> None:
    compare(kernel, spike_steps=2, neuron=LIFConfig(v_threshold=0.1))
    compare(kernel, spike_steps=9, decoder=DecoderConfig(kind="membrane", v_decay=0.5))
    compare(kernel, encoder=EncoderConfig(v_threshold=0.6), normalize=False, squash=False)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("matmul", ["float32", "exact", "bf16"])
def test_mlp_on_given_spikes(kernel: Kernel, matmul: Matmul) -> None:
    spikes = (torch.rand(4, 9, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()

    def outcome(name: Kernel) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        mlp = SpikingMLP([12, 20, 6], matmul=matmul, matmul_backward="float32", kernel=name)
        x = spikes.clone().requires_grad_()
        out = mlp(x)
        (out * torch.arange(6)).sum().backward()
        assert x.grad is not None
        return out.detach(), x.grad

    out, gradient = outcome(kernel)
    reference, reference_gradient = outcome("torch")
    assert 0 < float(out.mean()) < 1
    assert torch.equal(out, reference)
    assert_close(gradient, reference_gradient, 1e-5)


@pytest.mark.parametrize("kernel", ["torch", *KERNELS])
@pytest.mark.parametrize("matmul", ["float32", "exact", "bf16"])
@pytest.mark.parametrize("mode", ["observation", "weight", "bias"])
def test_faults_reach_the_action(kernel: Kernel, matmul: Matmul, mode: str) -> None:
    actor = make(kernel, matmul=matmul).eval()
    obs = torch.zeros(20, 5)
    with torch.no_grad():
        if mode == "observation":
            obs[3, 1] = float("nan")
        else:
            actor.mlp.get_parameter(f"linears.1.{mode}")[2] = float("inf")
    for batch in (obs, obs[:4]):
        action = actor(batch)
        with torch.no_grad():
            assert torch.equal(actor(batch).isnan(), action.isnan())
        broken = action.isnan().any(dim=1)
        assert bool(broken[3])
        assert bool(broken.all()) == (mode != "observation")


@pytest.mark.parametrize("kernel", ["torch", *KERNELS])
def test_an_empty_batch(kernel: Kernel) -> None:
    actor = make(kernel).eval()
    assert actor(torch.zeros(0, 5)).shape == (0, 3)
    with torch.no_grad():
        assert actor(torch.zeros(0, 5)).shape == (0, 3)


def test_hooks_see_every_layer() -> None:
    """A monitor must find the modules running, and the operation counts must not depend on it."""
    obs = torch.randn(7, 5)
    counts = [count_operations(make(kernel), obs) for kernel in ("torch", *KERNELS)]
    assert counts[0] == counts[1] == counts[2]
    actor = make(FASTEST).eval()
    seen: list[int] = []
    handle = actor.mlp.neurons[1].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        with_hook = actor(obs)
        handle.remove()
        assert torch.equal(actor(obs), with_hook)
    assert seen == [1]


@pytest.mark.parametrize("matmul", ["float32", "exact", "bf16"])
def test_the_plain_path_differentiates_twice(matmul: Matmul) -> None:
    actor = make("torch", matmul=matmul, neuron=CurrentLIFConfig(surrogate="sigmoid"))
    parameters = list(actor.parameters())
    loss = actor(torch.randn(8, 5)).square().mean()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    second = torch.autograd.grad(
        torch.stack([g.square().sum() for g in gradients]).sum(), parameters
    )
    assert all(bool(g.isfinite().all()) for g in second)
    assert sum(float(g.abs().sum()) for g in second) > 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_refuse_the_second_derivative(kernel: Kernel) -> None:
    actor = make(kernel)
    loss = actor(torch.randn(8, 5)).square().mean()
    with pytest.raises(RuntimeError, match="build it with kernel='torch'"):
        torch.autograd.grad(loss, list(actor.parameters()), create_graph=True)


@pytest.mark.parametrize("kernel", ["torch", *KERNELS])
def test_two_graphs_at_once(kernel: Kernel) -> None:
    """Scratch memory of one backward must not be that of another's results."""
    actor = make(kernel)
    weight = actor.mlp.get_parameter("linears.0.weight")
    first, second = torch.randn(2, 30, 5)

    def alone(obs: Tensor) -> Tensor:
        return torch.autograd.grad(actor.eval()(obs).sum(), weight)[0].clone()

    expected = alone(first), alone(second)
    losses = [actor(obs).sum() for obs in (first, second)]
    gradients = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses]
    again = torch.autograd.grad(losses[0], weight)[0]
    assert torch.equal(gradients[0], expected[0])
    assert torch.equal(gradients[1], expected[1])
    assert torch.equal(again, expected[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_frozen_parameters_get_no_gradient(kernel: Kernel) -> None:
    actor = make(kernel)
    actor.mlp.linears[0].requires_grad_(False)
    actor.encoder.requires_grad_(False)
    actor(torch.randn(4, 5)).sum().backward()
    grads = {name: p.grad for name, p in actor.named_parameters()}
    assert grads["mlp.linears.0.weight"] is None
    assert grads["encoder.mean"] is None
    assert grads["mlp.linears.1.weight"] is not None


def test_replaced_neurons_run_as_they_are() -> None:
    actor = make(FASTEST).eval()
    obs = torch.randn(6, 5)
    neurons: Any = actor.mlp.neurons
    for neuron in neurons:
        neuron.spike_fn = lambda v, threshold: (v > threshold + 0.2).to(v.dtype)
    plain = copy.deepcopy(actor)
    plain.mlp.kernel = "torch"
    with torch.no_grad():
        assert torch.equal(actor.spikes(obs), plain.spikes(obs))
        assert not torch.equal(actor.spikes(obs), make(FASTEST).eval().spikes(obs))


def test_other_dtypes_and_autocast() -> None:
    obs = torch.randn(6, 5)
    actor = make(FASTEST).eval()
    double = copy.deepcopy(actor).double()
    assert double(obs.double()).dtype == torch.float64
    with torch.no_grad():
        assert float((double(obs.double()).float() - actor(obs)).abs().median()) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        out = actor(obs)
        out.sum().backward()
    assert out.isfinite().all()
    assert actor.mlp.get_parameter("linears.0.weight").grad is not None


def test_one_model_runs_with_any_kernel_and_arithmetic() -> None:
    """Parameters know neither: a state loads into any other, and actions agree."""
    state = make("torch", matmul="float32").state_dict()
    obs = torch.randn(64, 5)
    backwards: tuple[MatmulBackward, ...] = ("auto", "bf16")
    actions = []
    matmuls: tuple[Matmul, ...] = ("float32", "exact", "bf16")
    for kernel, matmul, backward in itertools.product(("torch", *KERNELS), matmuls, backwards):
        actor = make(kernel, matmul=matmul, matmul_backward=backward).eval()
        actor.load_state_dict(state)
        actions.append(actor(obs).detach())
    for action in actions:
        assert float((action - actions[0]).abs().mean()) < 0.02
    assert len({action.numpy().tobytes() for action in actions}) <= 3


@NEEDS_NUMBA
def test_compiled_loops_round_gradients_to_nearest_even_bf16() -> None:
    from policies.kernels import cpu
    from policies.kernels.neuron import Neurons
    from policies.surrogate import Surrogate

    # Slope 1 and one step: the gradient of the current is that of the spike.
    current = torch.full((1, 1, 8), 0.5)
    values = [
        1.0,
        1 + 2**-8,
        1 + 3 * 2**-8,
        -(1 + 2**-9),
        1e-39,
        3.4e38,
        float("inf"),
        float("nan"),
    ]
    gradient = torch.tensor(values).view(1, 1, 8)
    neurons = Neurons(LIFConfig(), Surrogate("rectangle"))
    out = cpu.backward(current, torch.zeros(8), gradient, neurons, torch.bfloat16, None).grad
    expected = gradient.bfloat16()
    assert torch.equal(out.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))


def test_modules_are_found_where_they_were() -> None:
    """Names of parameters are a file format."""
    names = list(make(FASTEST).state_dict())
    assert "mlp.linears.0.weight" in names
    assert "mlp.linears.2.bias" in names
    assert all(isinstance(layer, nn.Linear) for layer in make(FASTEST).mlp.linears)
