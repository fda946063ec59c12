"""What a gradient step does: who learns, from what, and what is noted of it."""

import copy
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.optimizers import AdamWFactory
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from torch import Tensor

from d3rlpy_spiking.recording import recorded_rates
from tests.d3rlpy_spiking.common import (
    CONFIGS,
    LENGTH,
    build,
    is_discrete,
    make_context,
    make_dataset,
    train,
)

ALL = pytest.mark.parametrize("name", list(CONFIGS))
SPIKING = pytest.mark.parametrize("attention", ["pssa", "tssa", "sssa", "softmax"])


def batch_of(algo: Any, size: int = 32) -> Any:
    d3rlpy.seed(0)
    return make_dataset(is_discrete(algo)).sample_trajectory_batch(size, length=LENGTH)


def torch_batch(algo: Any, size: int = 32) -> Any:
    return TorchTrajectoryMiniBatch.from_batch(batch_of(algo, size), device="cpu:0")


def loss_name(name: str) -> str:
    return "actor_loss" if name == "tacr" else "loss"


@ALL
@SPIKING
def test_every_parameter_gets_a_gradient(name: str, attention: str) -> None:
    algo = build(name, attention=attention)
    for _ in range(3):  # TACR's critics answer to actions from the second on
        metrics = algo.update(batch_of(algo))
    silent = [n for n, p in algo.impl.network.named_parameters() if not p.grad.abs().max() > 0.0]
    # With theta 0 the layer branch of PTBN rests, and a bias in front of batch statistics is
    # without effect.
    assert not [n for n in silent if ".norm.ln." not in n and not n.endswith(".linear.bias")]
    assert metrics["grad_norm"] < 1e4


@pytest.mark.parametrize("attention", ["pssa", "tssa", "sssa"])
def test_the_release_s_width_leaves_attention_without_gradient(attention: str) -> None:
    """Why `mix_surrogate_width` is 2: sums of spikes are integers, where the rectangle is 0."""
    algo = build("dsformer", attention=attention, mix_surrogate_width=1.0, monitor_every=0)
    algo.update(batch_of(algo))
    attended = algo.impl.network.backbone.transformer.blocks[0].attention
    assert float(attended.query.current.linear.weight.grad.abs().max()) == 0.0
    assert float(attended.input_neuron.config.surrogate_width) == 1.0


def test_padding_does_not_blow_up_the_gradient() -> None:
    """A padded step is a nearly constant token, which a layer norm amplifies without bound."""
    norms = {}
    for masked in (True, False):
        algo = build("dsformer", num_layers=3, mask_statistics=masked, ptbn_steps=100)
        norms[masked] = max(algo.update(batch_of(algo))["grad_norm"] for _ in range(10))
    assert norms[True] < 100.0
    algo = build("discrete_sdt", num_layers=6)
    assert max(algo.update(batch_of(algo))["grad_norm"] for _ in range(5)) < 100.0


def test_statistics_leave_out_padding_if_asked() -> None:
    means = []
    for masked in (True, False):
        algo = build("dsformer", mask_statistics=masked)
        algo.update(batch_of(algo))
        norm = algo.impl.network.backbone.transformer.blocks[0].mlp.up.current.norm
        means.append(norm.bn.running_mean.clone())
    assert not torch.allclose(means[0], means[1], atol=1e-4)


@ALL
def test_a_deep_copy_trains_on_its_own(name: str) -> None:
    algo = build(name)
    algo.update(batch_of(algo))
    before = copy.deepcopy(algo.impl.network.state_dict())
    twin = copy.deepcopy(algo)
    twin.update(batch_of(algo))
    assert all(torch.equal(v, before[k]) for k, v in algo.impl.network.state_dict().items())
    changed = twin.impl.network.state_dict()
    moved = [k for k in before if k.endswith("weight") and not torch.equal(changed[k], before[k])]
    assert len(moved) > 10


def test_fit_takes_d3rlpy_s_arguments_in_their_order() -> None:
    algo = build("dsformer")
    seen: list[int] = []
    algo.fit(
        make_dataset(False), 4, 2, "name", True, NoopAdapterFactory(), False, None, None, None, 1,
        lambda _algo, _epoch, step: seen.append(step),
    )  # fmt: skip
    assert seen == [1, 2, 3, 4]


@ALL
def test_resumed_training_is_exact_at_theta_0(name: str, tmp_path: Any) -> None:
    changes = {} if name.startswith("discrete") else {"optim_factory": AdamWFactory(
        weight_decay=0.1, clip_grad_norm=0.25
    )}  # fmt: skip
    algo = build(name, **changes)

    def update(one: Any) -> None:
        torch.manual_seed(0)
        one.update(batch_of(algo))

    for _ in range(5):
        update(algo)
    assert float(algo.impl.progress.theta) == 0.0
    algo.save(str(tmp_path / "a.d3"))
    again = d3rlpy.load_learnable(str(tmp_path / "a.d3"))
    for _ in range(3):
        update(algo)
        update(again)
    for (key, ours), theirs in zip(
        algo.impl.network.state_dict().items(),
        again.impl.network.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs), key


def test_losses_by_hand() -> None:
    algo = build("dsformer")
    batch = torch_batch(algo)
    assert 0.0 < float(batch.masks.mean()) < 1.0
    algo.impl.modules.set_eval()
    arguments = (batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    valid = batch.masks.reshape(32, LENGTH).bool()
    with torch.no_grad():
        action = algo.impl.network(*arguments, 1 - batch.masks)
        expected = (action - batch.actions)[valid].square().mean()
        torch.testing.assert_close(algo.impl.compute_loss(batch), expected)
    algo = build("discrete_dsformer")
    batch = torch_batch(algo)
    algo.impl.modules.set_eval()
    valid = batch.masks.reshape(32, LENGTH).bool()
    arguments = (batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
    with torch.no_grad():
        _, logits = algo.impl.network(*arguments, 1 - batch.masks)
        target = batch.actions.reshape(32, LENGTH).long()[valid]
        expected = -torch.log_softmax(logits[valid], -1).gather(1, target[:, None]).mean()
        torch.testing.assert_close(algo.impl.compute_loss(batch), expected)


@ALL
def test_metrics_by_hand(name: str) -> None:
    algo = build(name)
    rates: dict[str, Tensor] = {}
    seen: list[float] = []
    step = algo.impl.modules.actor_optim if name == "tacr" else algo.impl.modules.optim
    inner = step.step

    def spy() -> None:
        grads = [p.grad for p in algo.impl.network.parameters()]
        seen.append(float(torch.sqrt(sum(g.double().square().sum() for g in grads))))
        inner()

    step.step = spy
    if name == "tacr":
        metrics = algo.update(batch_of(algo))
    else:
        with recorded_rates(algo.impl.network) as rates:
            metrics = algo.update(batch_of(algo))
    assert metrics["grad_norm"] == pytest.approx(seen[0], rel=1e-4)
    if rates:
        values = [float(rate) for rate in rates.values()]
        assert metrics["firing_rate"] == pytest.approx(np.mean(values))
        assert metrics["firing_rate_min"] == pytest.approx(min(values))
        assert metrics["firing_rate_max"] == pytest.approx(max(values))
        assert len(values) == 2 * 7


def test_windows_count_environment_steps() -> None:
    for name, tokens in (("sdt", 3), ("discrete_sdt", 3), ("dsformer", 1)):
        mix = build(name, window_size=2).impl.network.backbone.transformer.blocks[0].attention.mix
        assert mix.weight.shape == (tokens * LENGTH, 2 * tokens)


@pytest.mark.parametrize("name", ["sdt", "strl", "discrete_sdt", "discrete_strl"])
def test_timesteps_are_seen(name: str) -> None:
    algo = build(name)
    train(algo, 20)
    inpt = make_context(algo)
    before = algo.predict(inpt)
    inpt.timesteps[:] += 20
    assert not np.allclose(algo.predict(inpt), before, atol=1e-6)


def test_training_that_ends_before_batch_statistics_warns() -> None:
    algo = build("dsformer", ptbn_steps=10)
    with pytest.warns(UserWarning, match=r"ends at step 4, before ptbn_steps=10.*a tenth"):
        train(algo, 4)
    with pytest.warns(UserWarning, match=r"theta 0\.60.*ptbn_steps=10"):
        algo.fold()
    train(algo, 6)  # step 10: none


@pytest.mark.parametrize("name", ["dsformer", "sdt", "discrete_strl"])
def test_any_broken_weight_breaks_the_decision(name: str) -> None:
    algo = build(name)
    inpt = make_context(algo)
    algo.predict(inpt)
    for key, parameter in algo.impl.network.named_parameters():
        if ".norm.ln." in key or "position" in key:
            continue  # not used when evaluated, or not by this context
        before = parameter.data.clone()
        if key.endswith("mix.weight"):
            parameter.data.fill_(float("nan"))  # one entry may belong to no pair of tokens
        else:
            parameter.data.view(-1)[0] = float("nan")
        with pytest.raises(ValueError, match="weights are broken"):
            algo.predict(inpt)
        parameter.data.copy_(before)
    algo.predict(inpt)


def test_folding_keeps_critics_and_the_random_state() -> None:
    algo = build("tacr")
    train(algo, 5)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    folded = algo.fold()
    assert torch.equal(torch.rand(3), expected)
    for ours, theirs in zip(
        algo.impl.modules.q_funcs.parameters(),
        folded.impl.modules.q_funcs.parameters(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
