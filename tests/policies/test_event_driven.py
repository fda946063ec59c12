"""Event-driven inference against the batched network: the same bits, and it follows changes."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies import actor as actor_module
from policies.actor import PopulationActor, PopulationBody
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    EncoderConfig,
    LIFConfig,
    PopulationActorConfig,
)
from policies.event_driven import EventDrivenActor, EventDrivenBody
from policies.neurons import make_neuron
from policies.value import ValueNetwork

VARIANTS: dict[str, dict[str, Any]] = {
    "popsan": {},
    "soft lif": {"neuron": LIFConfig(reset_mode="soft")},
    "slow": {"neuron": CurrentLIFConfig(v_decay=0.95, i_decay=0.9), "spike_steps": 9},
    "one layer": {"hidden_sizes": ()},
    "wide": {"hidden_sizes": (700, 9)},
    "membrane": {"decoder": DecoderConfig(kind="membrane")},
    "last step": {"decoder": DecoderConfig(kind="membrane", v_decay=0.0)},
    "raw": {"normalize": False, "squash": False},
    "one neuron": {"hidden_sizes": (1,), "encoder": EncoderConfig(pop_size=1)},
    "charged start": {"encoder": EncoderConfig(v_init=0.3)},
}


def make(**settings: Any) -> PopulationActor:
    """An actor with statistics and uneven weights."""
    torch.manual_seed(0)
    config = PopulationActorConfig(**{"hidden_sizes": (64, 32), **settings})
    actor = PopulationActor(6, 3, config)
    actor(torch.randn(200, 6) * 3 + 1)
    with torch.no_grad():
        for linear in actor.mlp.layers():
            linear.weight.mul_(1.5 + torch.rand_like(linear.weight))
    return actor.eval()


def observations(rows: int = 40) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1)) * 3 + 1


@torch.no_grad()
def batched(actor: torch.nn.Module, obs: Tensor) -> Tensor:
    """The result of the batched path, which a large batch takes."""
    filler = torch.zeros(actor_module.EVENT_DRIVEN_BATCH + 1, obs.shape[1])
    out: Tensor = actor(torch.cat([obs, filler]))
    return out[: len(obs)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_few_observations_are_equal_bit_for_bit(variant: str) -> None:
    actor, obs = make(**VARIANTS[variant]), observations()
    expected = batched(actor, obs)
    assert float(expected.std()) > 0
    frozen = EventDrivenActor(actor)
    with torch.no_grad():
        for size in (1, 3):
            ours = torch.cat([actor(part) for part in obs.split(size)])
            assert torch.equal(ours, expected)
            bare = np.concatenate([frozen(part.numpy()) for part in obs.split(size)])
            assert np.array_equal(bare, expected.numpy())
    assert actor._events is not None


def test_a_charged_start_is_used() -> None:
    obs = observations()
    charged = EventDrivenActor(make(encoder=EncoderConfig(v_init=0.5)))(obs.numpy())
    assert not np.array_equal(charged, EventDrivenActor(make())(obs.numpy()))


def test_bodies_and_value_networks() -> None:
    torch.manual_seed(0)
    obs = observations()
    body = PopulationBody(6, 3, PopulationActorConfig(hidden_sizes=(16,)))
    values = ValueNetwork(6, 4, PopulationActorConfig(hidden_sizes=(16,)))
    with torch.no_grad():
        assert torch.equal(body(obs[:5]), batched(body, obs)[:5])
        torch.testing.assert_close(values(obs[:5]), batched(values, obs)[:5])
    assert body._events is not None
    assert values._events is not None


def test_it_follows_every_change() -> None:
    actor, obs = make(), observations(3)
    linear = actor.mlp.linears[1]
    assert isinstance(linear, torch.nn.Linear)

    def double_bias() -> None:
        linear.bias.data.mul_(2.0)

    def replace_weight() -> None:
        linear.weight = torch.nn.Parameter(linear.weight.detach().flip(0))

    def point_elsewhere() -> None:
        linear.weight.data = linear.weight.detach() * 1.3

    def move_statistics() -> None:
        actor.train()(observations(50) * 2)
        actor.eval()

    def move_fields() -> None:
        actor.encoder.mean.data.add_(0.2)

    def change_readout() -> None:
        actor.decoder.weight.data.mul_(-1.0)

    def train() -> None:
        optimizer = torch.optim.Adam(actor.parameters(), lr=0.05)
        actor(obs).sum().backward()
        optimizer.step()

    with torch.no_grad():
        actor(obs)
    for change in (
        double_bias,
        replace_weight,
        point_elsewhere,
        move_statistics,
        move_fields,
        change_readout,
        train,
    ):
        before = batched(actor, obs)
        change()
        after = batched(actor, obs)
        assert not torch.equal(before, after), change.__name__
        with torch.no_grad():
            assert torch.equal(actor(obs), after), change.__name__


def test_the_frozen_one_does_not_follow() -> None:
    actor, obs = make(), observations(3)
    frozen = EventDrivenActor(actor)
    before = frozen(obs.numpy())
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.mul_(0.7)
        actor.train()
    actor(observations(50) * 5)
    assert np.array_equal(frozen(obs.numpy()), before)
    assert np.array_equal(pickle.loads(pickle.dumps(frozen))(obs.numpy()), before)


def test_it_is_used_only_where_it_is_equal() -> None:
    obs = observations(2)
    cases: list[dict[str, Any]] = [
        {"matmul": "float32"},
        {"matmul": "bf16"},
        {"kernel": "fused"},
        {"encoder": EncoderConfig(kind="analog")},
        {"encoder": EncoderConfig(kind="poisson")},
        {"decoder": DecoderConfig(kind="membrane", v_decay=0.5)},
    ]
    for settings in cases:
        actor = make(**settings)
        with torch.no_grad():
            actor(obs)
        assert actor._events is None, settings
    actor = make()
    actor(obs)  # gradients are on
    assert actor._events is None
    poisson = make(encoder=EncoderConfig(kind="poisson"))
    with torch.no_grad():
        poisson(obs, deterministic=True)
    assert poisson._events is not None


@pytest.mark.parametrize("matmul", ["float32", "bf16"])
def test_other_arithmetics_are_close(matmul: Any) -> None:
    actor, obs = make(matmul=matmul), observations()
    difference = (
        torch.from_numpy(EventDrivenActor(actor)(obs.numpy())) - batched(actor, obs)
    ).abs()
    # A flipped spike moves an action; without one only rounding is left.
    assert float(difference.median()) < 1e-6
    assert float(difference.mean()) < 0.02


def test_a_decaying_membrane_readout_is_close() -> None:
    actor, obs = make(decoder=DecoderConfig(kind="membrane", v_decay=0.5)), observations()
    ours = torch.from_numpy(EventDrivenActor(actor)(obs.numpy()))
    torch.testing.assert_close(ours, batched(actor, obs), atol=1e-6, rtol=1e-5)


def test_analog_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="'deterministic' or 'poisson'"):
        EventDrivenActor(make(encoder=EncoderConfig(kind="analog")))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_faults_are_marked(bad: float) -> None:
    actor, obs = make(), observations(2)
    frozen = EventDrivenActor(actor)
    broken = obs.clone()
    broken[1, 2] = bad
    assert frozen.activity(broken.numpy()) is None
    assert np.isnan(frozen(broken.numpy())).all()
    with torch.no_grad():
        # The batched path tells the broken observation from the sound one.
        assert actor(broken).isnan().all(dim=1).tolist() == [False, True]
    assert actor.normalizer is not None
    for statistic in ("running_mean", "running_var"):
        damaged = copy.deepcopy(actor)
        with torch.no_grad():
            damaged.get_buffer(f"normalizer.{statistic}")[1] = bad
            assert damaged(obs).isnan().all(), statistic
    for name in ("encoder.std", "mlp.linears.1.weight", "mlp.linears.2.bias", "decoder.weight"):
        damaged = copy.deepcopy(actor)
        with torch.no_grad():
            damaged.get_parameter(name).view(-1)[3 % damaged.get_parameter(name).numel()] = bad
            assert damaged(obs).isnan().any(), name
        assert np.isnan(EventDrivenActor(damaged)(obs.numpy())).any(), name


def test_copies_and_pickles_start_without_a_cache() -> None:
    actor, obs = make(), observations(2)
    with torch.no_grad():
        expected = actor(obs)
    assert isinstance(actor._events, EventDrivenBody)
    for other in (copy.deepcopy(actor), pickle.loads(pickle.dumps(actor))):
        assert other._events is None
        with torch.no_grad():
            assert torch.equal(other(obs), expected)
            other.mlp.layers()[0].weight.zero_()
            assert torch.equal(actor(obs), expected)


def test_computed_parameters() -> None:
    """A parametrization gives a new tensor at each access."""
    actor, obs = make(), observations(2)
    linear: Any = actor.mlp.linears[0]
    torch.nn.utils.parametrizations.weight_norm(linear)
    with torch.no_grad():
        first = actor(obs)
        assert torch.equal(first, batched(actor, obs))
        linear.parametrizations.weight.original0.mul_(0.3)
        assert torch.equal(actor(obs), batched(actor, obs))
        assert not torch.equal(actor(obs), first)


def test_strided_and_double_observations() -> None:
    actor, obs = make(), observations(8)
    with torch.no_grad():
        expected = batched(actor, obs)
        assert torch.equal(actor(obs[::2]), expected[::2])
        assert torch.equal(actor(obs.t().contiguous().t()), expected)
        assert torch.equal(actor(obs.double()), expected)


def test_it_follows_views_and_shapes() -> None:
    """Other memory, or the same memory read otherwise."""
    actor, obs = make(hidden_sizes=(16, 16)), observations(3)
    first, second, third = (layer for layer in actor.mlp.layers())

    def transpose() -> None:
        second.weight.data = second.weight.data.t()

    def shrink() -> None:
        second.weight.data, second.bias.data = second.weight.data[:9], second.bias.data[:9]
        third.weight.data = third.weight.data[:, :9]

    def expand() -> None:
        first.weight.data = torch.full((1, 1), 0.02).expand(16, 60)

    with torch.no_grad():
        actor(obs)
        for change in (transpose, shrink, expand):
            change()
            assert torch.equal(actor(obs), batched(actor, obs)), change.__name__
            assert torch.equal(actor(obs), batched(actor, obs)), change.__name__


def test_it_follows_settings() -> None:
    actor, obs = make(), observations(3)
    neurons: Any = actor.mlp.neurons
    assert actor.normalizer is not None
    with torch.no_grad():
        before = actor(obs)
        for neuron in neurons:
            neuron.config = CurrentLIFConfig(v_threshold=0.3)
        after = actor(obs)
        assert not torch.equal(after, before)
        assert torch.equal(after, batched(actor, obs))
        actor.normalizer.clip = 1.0
        assert not torch.equal(actor(obs), after)
        assert torch.equal(actor(obs), batched(actor, obs))


def test_layers_with_neurons_of_their_own() -> None:
    actor, obs = make(), observations(3)
    actor.mlp.neurons[1] = make_neuron(CurrentLIFConfig(v_threshold=0.2))
    plain = copy.deepcopy(actor)
    plain.mlp.kernel = "torch"
    with torch.no_grad():
        assert torch.equal(actor(obs), plain(obs))
        assert torch.equal(batched(actor, obs), batched(plain, obs))


def test_other_layers_run_as_they_are() -> None:
    actor, obs = make(), observations(30)
    old = actor.mlp.linears[1]
    assert isinstance(old, torch.nn.Linear)
    replaced = torch.nn.Linear(old.in_features, old.out_features)
    replaced.load_state_dict(old.state_dict())
    with torch.no_grad():
        expected = actor(obs)
        actor.mlp.linears[1] = replaced
        assert float((actor(obs) - expected).abs().median()) < 1e-5
        assert actor(obs[:2]).shape == (2, 3)


def test_parameters_elsewhere() -> None:
    """Observations may be on the CPU while the network is not."""
    actor = make().to("meta")
    with torch.no_grad():
        assert actor.by_events(observations(1), True) is None


def test_hooks_on_what_stands_around_it() -> None:
    actor, obs = make(), observations(2)
    seen: list[str] = []
    for name in ("normalizer", "encoder", "decoder", "mlp"):
        actor.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    with torch.no_grad():
        actor(obs)
    assert sorted(seen) == ["decoder", "encoder", "mlp", "normalizer"]


def test_bf16_weights_are_rounded() -> None:
    actor, obs = make(matmul="bf16"), observations()
    rounded = copy.deepcopy(actor)
    with torch.no_grad():
        for layer in rounded.mlp.layers():
            layer.weight.copy_(layer.weight.bfloat16())
    ours, same = EventDrivenActor(actor)(obs.numpy()), EventDrivenActor(rounded)(obs.numpy())
    assert np.array_equal(ours, same)
    other = copy.deepcopy(rounded)
    other.mlp.matmul = "float32"
    assert not np.array_equal(ours, EventDrivenActor(make(matmul="float32"))(obs.numpy()))


def test_sums_beyond_int32() -> None:
    """All of 1,500 neurons fire with weights of one sign, next to a power of two."""
    actor = make(hidden_sizes=(1500,), squash=False)
    with torch.no_grad():
        actor.mlp.layers()[0].bias.fill_(5.0)
        weight = actor.mlp.layers()[1].weight
        weight.copy_(1.9 + 0.05 * torch.rand_like(weight))
        weight.mul_(torch.where(torch.arange(len(weight)) % 2 == 0, 1e-3, -1e-3)[:, None])
        obs = observations(3)
        assert torch.equal(actor(obs), batched(actor, obs))
        assert actor.mlp.layers()[1].cached(weight).scale.dtype == torch.float64


def test_defaults_of_torch_do_not_matter() -> None:
    actor, obs = make(), observations(30)
    with torch.no_grad():
        expected, few = actor(obs), actor(obs[:2])
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.equal(actor(obs), expected)
            assert torch.equal(actor(obs[:2]), few)
        finally:
            torch.set_default_dtype(torch.float32)
    actor(obs).sum().backward()
    assert actor.encoder.mean.grad is not None
