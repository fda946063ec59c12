"""The penalty on synaptic operations against a loss that has it written out."""

import copy
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
    PopulationActorConfig,
)
from policies.distributed import DataParallel
from policies.energy import count_operations
from policies.population import PopulationEncoder
from policies.synops import charged
from policies.value import ValueNetwork
from tests.kernels import NUMBA

PENALTY = 30.0


def make(penalty: float = PENALTY, **settings: Any) -> PopulationActor:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"hidden_sizes": (24, 16), "decoder": DecoderConfig(pop_size=4)}
    config = PopulationActorConfig(synops_penalty=penalty, **{**defaults, **settings})
    return PopulationActor(5, 3, config).train()


def observations(rows: int = 33) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(2)) * 2


def loss_of(actor: nn.Module, obs: Tensor) -> Tensor:
    torch.manual_seed(1)  # Poisson draws
    actions: Tensor = actor(obs)
    return (actions * torch.linspace(-1, 1, actions.numel()).view_as(actions)).sum()


def gradients(actor: PopulationActor, obs: Tensor, loss: Tensor) -> dict[str, Tensor]:
    tensors = {**dict(actor.named_parameters()), "obs": obs}
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))


def free(actor: PopulationActor, obs: Tensor) -> dict[str, Tensor]:
    obs = obs.clone().requires_grad_()
    return gradients(actor, obs, loss_of(actor, obs))


def written_out(obs: Tensor, **settings: Any) -> dict[str, Tensor]:
    """Gradients of the loss plus the penalty's term, from hooks on plain modules."""
    actor = make(0.0, kernel="torch", **settings)
    senders = [actor.encoder, *actor.mlp.neurons]
    fan_out = dict(zip(senders, (layer.out_features for layer in actor.mlp.layers()), strict=False))
    operations: list[Tensor] = []

    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        spikes = output if isinstance(module, PopulationEncoder) else output[0]
        if module not in fan_out:  # of the output: the decoder's, and 4 for each that comes back
            back = 4.0 * spikes[:-1].sum() if settings.get("intra_layer") else 0.0
            operations.append(spikes.sum() + back)
        elif not (module is actor.encoder and actor.config.encoder.kind == "analog"):
            operations.append(fan_out[module] * spikes.sum())

    for module in senders:
        module.register_forward_hook(hook)
    obs = obs.clone().requires_grad_()
    loss = loss_of(actor, obs)
    term = torch.stack(operations).sum() / len(obs)
    assert float(term.detach()) > 100
    return gradients(actor, obs, loss + PENALTY / 1000.0 * term)


CASES: list[dict[str, Any]] = [
    {},
    {"matmul": "float32", "encoder": EncoderConfig(kind="poisson")},
    {"encoder": EncoderConfig(kind="analog")},
    {"encoder": EncoderConfig(v_threshold=0.6)},
    {"neuron": LIFConfig(reset_mode="soft", surrogate="arctan", surrogate_width=2.0)},
    {"decoder": DecoderConfig(pop_size=4, kind="membrane")},
    {"intra_layer": True},
    {"intra_layer": True, "neuron": LIFConfig(), "hidden_sizes": ()},
    {"hidden_sizes": ()},
]


@pytest.mark.parametrize("kernel", ["torch", "fused", NUMBA])
@pytest.mark.parametrize("settings", CASES, ids=str)
def test_gradients_equal_those_of_the_term_written_out(
    kernel: Any, settings: dict[str, Any]
) -> None:
    expected = written_out(observations(), **settings)
    found = free(make(kernel=kernel, **settings), observations())
    without = free(make(0.0, kernel=kernel, **settings), observations())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        assert float((found[name] - gradient).abs().max()) <= 2e-5 * largest, name
        # The readout's weights are no spikes' business; all else feels the penalty.
        if not name.startswith("decoder"):
            moved = float((without[name] - gradient).abs().max())
            assert moved > 0.01 * largest, name


def test_bf16_backward_is_close() -> None:
    settings: dict[str, Any] = {"matmul": "bf16", "matmul_backward": "bf16"}
    expected = written_out(observations(), matmul="bf16", matmul_backward="float32")
    found = free(make(kernel="fused", **settings), observations())
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm() / gradient.norm())
        assert error < 0.05, name


@pytest.mark.parametrize("kernel", ["torch", "fused"])
def test_values_are_the_same(kernel: Any) -> None:
    obs = observations()
    assert torch.equal(make(kernel=kernel)(obs), make(0.0, kernel=kernel)(obs))


@pytest.mark.parametrize("kernel", ["torch", "fused"])
def test_evaluation_is_free(kernel: Any) -> None:
    found = free(make(kernel=kernel).eval(), observations())
    expected = free(make(0.0, kernel=kernel).eval(), observations())
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert make(kernel=kernel)(observations()).grad_fn is None


def test_a_mean_over_the_batch() -> None:
    """Twice the batch, of the same observations, is charged as once."""
    once, twice = make(kernel="fused"), make(kernel="fused")
    obs = observations()
    for actor, batch in ((once, obs), (twice, torch.cat([obs, obs]))):
        actor.normalizer = None
        (0.0 * actor(batch).sum()).backward()
    for a, b in zip(once.mlp.parameters(), twice.mlp.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)
        assert float(a.grad.abs().max()) > 0


def test_each_backward_pass_counts_once() -> None:
    actor = make()
    obs = observations()
    first = free(actor, obs)
    (loss_of(actor, obs) + 0.0 * actor(observations(2)).sum().detach()).backward()
    for name, parameter in actor.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, first[name])


def test_a_second_derivative_is_the_losss_own() -> None:
    settings: dict[str, Any] = {"kernel": "torch", "neuron": CurrentLIFConfig(surrogate="arctan")}

    def second(penalty: float) -> Tensor:
        actor = make(penalty, **settings)
        weight = actor.mlp.layers()[2].weight
        loss = actor(observations()).square().sum()
        (first,) = torch.autograd.grad(loss, weight, create_graph=True)
        (found,) = torch.autograd.grad((first * torch.ones_like(first)).sum(), actor.decoder.weight)
        return found

    torch.testing.assert_close(second(PENALTY), second(0.0))


def test_more_penalty_fewer_operations() -> None:
    """The same fit at four prices: counted operations fall, the error of the fit rises."""
    obs = torch.randn(128, 5, generator=torch.Generator().manual_seed(3))
    targets = 0.8 * torch.tanh(obs[:, :3])
    counts, errors = [], []
    for penalty in (0.0, 0.01, 0.1, 1.0):
        actor = make(penalty, matmul="float32", hidden_sizes=(64, 64))
        optimizer = torch.optim.Adam(actor.parameters(), 3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.mse_loss(actor(obs), targets).backward()
            optimizer.step()
        actor.eval()
        counts.append(count_operations(actor, obs).accumulates)
        with torch.no_grad():
            errors.append(float(nn.functional.mse_loss(actor(obs), targets)))
    assert counts == sorted(counts, reverse=True)
    assert counts[3] < 0.5 * counts[0]
    assert errors[0] < 0.5 * float(targets.square().mean())
    assert errors[0] < errors[3]


def test_autocast() -> None:
    """Under bfloat16 as under "bf16"; float16, whose loss is scaled, is refused."""
    net = DataParallel(make(matmul="float32", kernel="fused"), amp="bf16")
    obs = observations().requires_grad_()
    found = gradients(net.module, obs, loss_of(net, obs))  # type: ignore[arg-type]
    expected = free(make(kernel="fused", matmul="bf16"), observations())
    for name, gradient in expected.items():
        error = float((found[name] - gradient).norm() / gradient.norm())
        assert error < 0.02, name
    half = DataParallel(make(), amp="fp16")
    with pytest.raises(RuntimeError, match="synops_penalty is added to gradients"):
        half(observations())
    half.eval()(observations())


def test_copies_keep_it_and_state_dicts_do_not_know_it() -> None:
    assert make().state_dict().keys() == make(0.0).state_dict().keys()
    twin = copy.deepcopy(make())
    expected = free(make(), observations())
    found = free(twin, observations())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_charged_under_functorch_and_tracing() -> None:
    spikes = torch.ones(3, 2)
    grad = torch.func.grad(lambda x: (2.0 * charged(x, 5.0)).sum())(spikes)
    assert grad.tolist() == [[7.0, 7.0]] * 3
    rows = torch.func.vmap(torch.func.grad(lambda x: charged(x, 5.0).sum()))(spikes)
    assert rows.tolist() == [[6.0, 6.0]] * 3


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, about autograd functions
@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_charged_when_compiled(kernel: Any) -> None:
    actor, obs = make(kernel=kernel, normalize=False), observations()
    compiled: Any = torch.compile(actor, backend="eager")
    expected = torch.autograd.grad(loss_of(actor, obs), list(actor.parameters()))
    found = torch.autograd.grad(loss_of(compiled, obs), list(actor.parameters()))
    for own, other in zip(expected, found, strict=True):
        torch.testing.assert_close(own, other)


def test_refused() -> None:
    for bad, error in ((-1.0, ValueError), (float("inf"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="synops_penalty must be"):
            PopulationActorConfig(synops_penalty=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="synops_penalty is charged to actors"):
        ValueNetwork(3, 1, PopulationActorConfig(synops_penalty=1.0))
