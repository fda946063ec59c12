"""Connections inside output populations: by hand, in every arithmetic, wherever a network is seen.

The float64 reference is plain numpy, written from the equations at the head of intra_layer.py.
"""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.actor import PopulationActor, PopulationBody
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)
from policies.distributed import DataParallel
from policies.energy import count_operations, neurobench_metrics
from policies.energy.loihi_network import chip_network, spike_trains
from policies.intra_layer import IntraLayer
from policies.monitor import diagnose, probe
from policies.neurons import CurrentLIF, make_neuron
from policies.spiking_mlp import SpikingMLP
from policies.value import ValueNetwork
from tests.kernels import NEEDS_NUMBA, NUMBA

Doubles = NDArray[np.float64]


def make(**settings: Any) -> PopulationActor:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"hidden_sizes": (24, 16), "decoder": DecoderConfig(pop_size=4)}
    config = PopulationActorConfig(**{**defaults, "intra_layer": True, **settings})
    actor = PopulationActor(5, 3, config)
    intra = actor.mlp.intra_layer
    assert intra is not None
    with torch.no_grad():
        intra.weight.mul_(2.0)  # so that no test can pass without the feedback
    return actor


def observations(rows: int = 33) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(2)) * 2


def run(actor: PopulationActor, obs: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
    """Spikes, actions, gradients of parameters and of observations."""
    with torch.no_grad():
        spikes = actor.eval().spikes(obs)
    obs = obs.clone().requires_grad_()
    actions = actor(obs)
    (actions * torch.linspace(-1, 1, actions.numel()).view_as(actions)).sum().backward()
    gradients = {name: p.grad for name, p in actor.named_parameters() if p.grad is not None}
    assert obs.grad is not None
    return spikes, actions.detach(), gradients, obs.grad


def test_two_steps_by_hand() -> None:
    """Two populations of two neurons; decays 1/2 and 3/4, threshold 1/2, rectangle of width 1."""
    intra = IntraLayer(2, 2).double()
    weight = torch.tensor([[[0.25, -0.5], [0.5, 1.0]], [[-1.0, 0.0], [0.25, 0.5]]])
    bias = torch.tensor([0.125, -0.125, 0.25, 0.0])
    with torch.no_grad():
        intra.weight.copy_(weight)
        intra.bias.copy_(bias)
    x = torch.tensor([[[0.5, 0.25, 0.5, -0.5]], [[0.5, 0.0, 0.0, 0.25]]], dtype=torch.float64)
    x.requires_grad_()
    spikes, state = intra(x, CurrentLIF())
    # t = 1: c = v = x + b_L = [0.625, 0.125, 0.75, -0.5], so neurons 0 and 2 fire.
    # t = 2: L s = [0.25, 0.5, -1, 0.25], columns 0 of both;
    #        c = c / 2 + x + b_L + L s = [1.1875, 0.4375, -0.375, 0.25];
    #        v = 3/4 v (1 - s) + c = [1.1875, 0.53125, -0.375, -0.125].
    assert spikes.tolist() == [[[1, 0, 1, 0]], [[1, 1, 0, 0]]]
    assert state.v.tolist() == [[0, 0, -0.375, -0.125]]
    # Of the spike of neuron 1 at t = 2 (x - threshold = 0.03, so its derivative is 1) with respect
    # to x_1: its own current halved, its own membrane times 3/4 (1 - s + v ds/dv taken together is
    # 1 - 0 - 0.125), and the feedback of both neurons' spikes, L[1, :] = [0.5, 1].
    (grad,) = torch.autograd.grad(spikes[1, 0, 1], x)
    assert grad[1].tolist() == [[0, 1, 0, 0]]
    assert grad[0].tolist() == [[0.5, 0.5 + 0.75 * (1 - 0.125) + 1.0, 0, 0]]


def reference(actor: PopulationActor, hidden: Doubles) -> Doubles:
    """Spikes [T, B, N] of the last layer for the spikes of the hidden one."""
    parts = {name: p.detach().double().numpy() for name, p in actor.named_parameters()}
    layer = len(actor.mlp.linears) - 1
    inside, bias = parts["mlp.intra_layer.weight"], parts["mlp.intra_layer.bias"]
    actions, size, _ = inside.shape
    x = hidden @ parts[f"mlp.linears.{layer}.weight"].T + parts[f"mlp.linears.{layer}.bias"]
    i = v = spikes = np.zeros_like(x[0])
    found = []
    for t in range(len(x)):
        groups = spikes.reshape(-1, actions, size)
        back = np.einsum("bap,aqp->baq", groups, inside).reshape(v.shape)
        i = 0.5 * i + x[t] + bias + back
        v = 0.75 * v * (1.0 - spikes) + i
        spikes = (v > 0.5).astype(np.float64)
        found.append(spikes)
    return np.stack(found)


@pytest.mark.parametrize("matmul", ["exact", "float32"])
def test_spikes_equal_the_numpy_reference(matmul: Any) -> None:
    actor = make(matmul=matmul)
    hidden: list[Tensor] = []
    handle = actor.mlp.neurons[1].register_forward_hook(lambda *a: hidden.append(a[2][0]))
    with torch.no_grad():
        plain = actor.eval().spikes(observations())
        handle.remove()
        fast = actor.spikes(observations())
    expected = reference(actor, hidden[0].double().numpy())
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_array_equal(plain, expected)
    np.testing.assert_array_equal(fast, expected)
    with torch.no_grad():
        assert actor.mlp.intra_layer is not None
        actor.mlp.intra_layer.weight.zero_()
    assert not torch.equal(actor.spikes(observations()), fast)


@pytest.mark.parametrize("kernel", ["fused", NUMBA])
@pytest.mark.parametrize(
    "settings",
    [
        {"matmul": "exact"},
        {"matmul": "float32"},
        {"matmul": "bf16"},
        {"matmul": "exact", "matmul_backward": "bf16"},
        {"encoder": EncoderConfig(kind="analog")},
        {"neuron": LIFConfig(reset_mode="soft", surrogate="arctan")},
        {"decoder": DecoderConfig(pop_size=4, kind="membrane")},
        {"hidden_sizes": ()},
        {"spike_steps": 3},
    ],
    ids=str,
)
def test_kernels_equal_the_plain_modules(kernel: Any, settings: dict[str, Any]) -> None:
    plain = run(make(kernel="torch", **settings), observations())
    ours = run(make(kernel=kernel, **settings), observations())
    assert torch.equal(ours[0], plain[0])
    assert torch.equal(ours[1], plain[1])
    assert ours[2].keys() == plain[2].keys()
    bf16 = "bf16" in settings.values()
    for name, gradient in {**plain[2], "obs": plain[3]}.items():
        found = ours[3] if name == "obs" else ours[2][name]
        assert float(gradient.abs().max()) > 0, name
        tolerance = (0.02 if bf16 else 1e-5) * float(gradient.abs().max())
        assert float((found - gradient).abs().max()) <= tolerance, name


def test_gradients_equal_finite_differences_of_the_smooth_layer() -> None:
    torch.manual_seed(0)
    config = CurrentLIFConfig(surrogate="sigmoid", surrogate_width=2.0)
    neuron = CurrentLIF(config)
    spike_fn: Any = neuron.spike_fn
    neuron.spike_fn = spike_fn.smooth
    intra = IntraLayer(2, 3).double()
    x = torch.randn(4, 2, 6, dtype=torch.float64, requires_grad=True)

    def spikes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.no_grad():
            intra.weight.copy_(weight)
        values = {"weight": weight, "bias": bias}
        out: tuple[Tensor, Any] = torch.func.functional_call(intra, values, (x, neuron))
        return out[0]

    given = (x, *(p.detach().clone().requires_grad_() for p in intra.parameters()))
    assert torch.autograd.gradcheck(spikes, given)


@pytest.mark.parametrize("matmul", ["exact", "float32", "bf16"])
def test_a_second_derivative_exists_in_plain_operations(matmul: Any) -> None:
    actor = make(kernel="torch", matmul=matmul, neuron=CurrentLIFConfig(surrogate="sigmoid")).eval()
    assert actor.mlp.intra_layer is not None
    weight = actor.mlp.intra_layer.weight
    (first,) = torch.autograd.grad(actor(observations()).sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    assert float(second.abs().max()) > 0


def test_feedback_stays_inside_a_population() -> None:
    intra = IntraLayer(3, 4)
    back = intra.feedback(torch.device("cpu"))(torch.eye(12))
    for row in range(12):
        others = torch.ones(12, dtype=torch.bool)
        others[row // 4 * 4 : row // 4 * 4 + 4] = False
        assert not back[row, others].any()
        assert back[row, ~others].all()
    # from the row's neuron to each of its population
    assert torch.equal(back[5, 4:8], intra.weight[1, :, 1])


def test_it_starts_like_a_grouped_convolution() -> None:
    torch.manual_seed(0)
    intra = IntraLayer(50, 16)
    for parameter in (intra.weight.detach(), intra.bias.detach()):
        assert float(parameter.abs().max()) <= 0.25
        assert abs(float(parameter.std()) - 0.25 / math.sqrt(3)) < 0.01


def test_off_leaves_everything_as_it_was() -> None:
    torch.manual_seed(0)
    off = PopulationActor(5, 3, PopulationActorConfig(hidden_sizes=(24, 16)))
    assert "intra" not in " ".join(off.state_dict())
    assert make().state_dict().keys() - off.state_dict().keys() == {
        "mlp.intra_layer.weight",
        "mlp.intra_layer.bias",
    }


@NEEDS_NUMBA
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"neuron": LIFConfig(reset_mode="soft")},
        {"decoder": DecoderConfig(pop_size=7, kind="membrane")},
        {"hidden_sizes": (600,)},
        {"spike_steps": 2},
    ],
    ids=str,
)
def test_event_driven_decisions_are_equal_bit_for_bit(settings: dict[str, Any]) -> None:
    from policies.event_driven import EventDrivenActor, EventDrivenBody

    actor = make(**settings).eval()
    obs = observations(40)
    with torch.no_grad():
        batched = actor(obs)
        few = torch.cat([actor(part) for part in obs.split(7)])
        assert isinstance(actor._events, EventDrivenBody)
        assert torch.equal(few, batched)
        np.testing.assert_array_equal(EventDrivenActor(actor)(obs.numpy()), batched)
        # It follows changes of the new parameters as well.
        intra = actor.mlp.intra_layer
        assert intra is not None
        intra.weight.data.neg_()
        intra.bias.data.mul_(-3.0)
        changed = actor(obs)
        assert not torch.equal(changed, batched)
        assert torch.equal(torch.cat([actor(part) for part in obs.split(7)]), changed)


@NEEDS_NUMBA
def test_event_driven_without_hidden_layers() -> None:
    from policies.event_driven import EventDrivenActor

    actor = make(hidden_sizes=()).eval()
    with torch.no_grad():
        expected = actor(observations())
    np.testing.assert_array_equal(EventDrivenActor(actor)(observations().numpy()), expected)


@NEEDS_NUMBA
@pytest.mark.parametrize("matmul", ["float32", "bf16"])
def test_event_driven_in_other_arithmetics_is_close(matmul: Any) -> None:
    from policies.event_driven import EventDrivenActor

    actor = make(matmul=matmul).eval()
    with torch.no_grad():
        expected = actor(observations()).numpy()
    found = EventDrivenActor(actor)(observations().numpy())
    assert np.median(np.abs(found - expected)) < 1e-6


@pytest.mark.parametrize("rows", [3, 33])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_broken_parameter_shows(name: str, bad: float, rows: int) -> None:
    actor = make().eval()
    with torch.no_grad():
        actor.mlp.get_parameter(f"intra_layer.{name}").view(-1)[0] = bad
        assert actor(observations(rows)).isnan().all()
    (found,) = diagnose(probe(actor, lambda: actor(observations())))
    assert (found.fault, found.layer) == ("nan", "mlp.intra_layer")


def test_a_broken_observation_reaches_its_own_action_only() -> None:
    actor, obs = make().eval(), observations()
    obs[3, 1] = float("nan")
    with torch.no_grad():
        assert actor(obs).isnan().all(dim=1).nonzero().flatten().tolist() == [3]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    actor, obs = make(kernel="fused").eval(), observations(200)
    with torch.no_grad():
        together = actor.spikes(obs)
        assert torch.equal(torch.cat([actor.spikes(part) for part in obs.split(9)], 1), together)


def test_operations_are_counted() -> None:
    actor = make().eval()
    with torch.no_grad():
        spikes = actor.spikes(observations())
    count = count_operations(actor, observations())
    layer = count.layers["mlp.intra_layer"]
    # A spike costs P = 4 additions unless it is the last step's; nothing of the layer is uncounted.
    assert layer.accumulates == pytest.approx(float(spikes[:-1].sum()) * 4 / 33)
    assert layer.dense == layer.slots == 4 * 3 * 4 * 4
    assert layer.spiked
    assert count.uncounted == ()
    assert count.layers["mlp.neurons.2"].firing_rate == pytest.approx(float(spikes.mean()))
    with torch.no_grad():
        assert actor.mlp.intra_layer is not None
        actor.mlp.intra_layer.weight[:, 1:] = 0.0  # three quarters of the weights
        spikes = actor.spikes(observations())
    layer = count_operations(actor, observations()).layers["mlp.intra_layer"]
    assert layer.accumulates == pytest.approx(float(spikes[:-1].sum()) / 33)


def test_neurobench_counts_membranes_with_feedback_and_no_synapses() -> None:
    actor = make(hidden_sizes=()).eval()
    metrics = neurobench_metrics(actor, observations())
    assert "SynapticOperations" not in metrics
    # The membrane after each step, from the layer itself.
    states: list[Any] = []
    neuron, intra = actor.mlp.neurons[0], actor.mlp.intra_layer
    assert intra is not None
    seen: list[Tensor] = []
    handle = neuron.register_forward_hook(lambda *a: seen.append(a[1][0]))
    with torch.no_grad():
        actor(observations())
        handle.remove()
        feedback = intra.feedback(torch.device("cpu"))
        states = [neuron(seen[0][: t + 1], None, feedback)[1].v for t in range(5)]
    moved = sum(int((a != b).sum()) for a, b in itertools.pairwise(states))
    assert metrics["MembraneUpdates"] == (moved + states[0].numel()) / 33


def test_the_doctor_finds_nothing_wrong_in_a_sound_network() -> None:
    actor = make().train()
    for _ in range(20):
        actor(observations(200))
    activity = probe(actor, lambda: actor(observations(200)))
    assert diagnose(activity) == []
    assert [layer.name for layer in activity.layers] == [f"mlp.neurons.{n}" for n in range(3)]


def test_the_simulated_chip_refuses_it() -> None:
    for function in (chip_network, lambda actor: spike_trains(actor, observations())):
        with pytest.raises(ValueError, match="intra_layer=True feeds spikes back"):
            function(make())


def test_copies_and_state_dicts() -> None:
    actor = make().eval()
    twin = copy.deepcopy(actor)
    loaded = make(neuron=CurrentLIFConfig()).eval()
    loaded.load_state_dict(actor.state_dict())
    with torch.no_grad():
        expected = actor(observations())
        assert torch.equal(twin(observations()), expected)
        assert torch.equal(loaded(observations()), expected)
        assert twin.mlp.intra_layer is not None
        twin.mlp.intra_layer.bias.add_(1.0)
        assert not torch.equal(twin(observations()), expected)
        assert torch.equal(actor(observations()), expected)


def test_bfloat16_autocast_is_the_bf16_arithmetic() -> None:
    under, asked = make(matmul="float32"), make(matmul="bf16")
    obs = observations()
    with torch.autocast("cpu", torch.bfloat16):
        spikes = under.eval().spikes(obs)
    assert torch.equal(spikes, asked.eval().spikes(obs))
    net = DataParallel(under, amp="bf16")
    net(obs).sum().backward()
    assert under.mlp.intra_layer is not None
    grad = under.mlp.intra_layer.weight.grad
    assert grad is not None
    assert grad.dtype == torch.float32
    assert float(grad.abs().max()) > 0


def test_the_graph_can_be_exported() -> None:
    actor = make(matmul="float32").eval()
    exported = torch.export.export(actor, (observations(),)).module()
    assert torch.equal(exported(observations()), actor(observations()))


def test_hooks_see_the_module() -> None:
    actor, calls = make().eval(), []
    assert actor.mlp.intra_layer is not None
    actor.mlp.intra_layer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        actor(observations(3))
    assert calls == [1]


def test_actors_only() -> None:
    config = PopulationActorConfig(intra_layer=True)
    with pytest.raises(ValueError, match="intra_layer=True connects the neurons of each action"):
        ValueNetwork(3, 1, config)
    with pytest.raises(TypeError, match="intra_layer must be True or False, got 1"):
        PopulationActorConfig(intra_layer=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="intra_layer=True needs spike_steps >= 2"):
        PopulationActorConfig(intra_layer=True, spike_steps=1)
    with pytest.raises(ValueError, match="9 neurons are not 2 populations"):
        SpikingMLP([4, 9], intra_populations=2)
    assert PopulationBody(3, 2, config).mlp.intra_layer is not None


def test_lif_neurons_take_feedback_even_where_they_are_fused() -> None:
    torch.manual_seed(0)
    neuron: Any = make_neuron(LIFConfig())
    neuron.fused = True
    intra = IntraLayer(2, 3)
    x = torch.randn(5, 4, 6)
    fused, _ = intra(x, neuron)
    neuron.fused = False
    assert torch.equal(fused, intra(x, neuron)[0])
    assert not torch.equal(fused, neuron(x + intra.bias)[0])
