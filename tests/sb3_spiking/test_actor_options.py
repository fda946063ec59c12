"""Options that only actors have: every algorithm trains with them or refuses them by name."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.actor import PopulationBody
from policies.population import PopulationEncoder
from sb3_spiking.acting import ActingNetwork
from tests.sb3_spiking import matrix

WITHOUT_ACTOR = ("DQN", "QRDQN")
WITH_ACTOR = sorted(set(matrix.ALGORITHMS) - set(WITHOUT_ACTOR))
SMALL: dict[str, Any] = {"net_arch": [8], "decoder_pop_size": 4}


def make(algorithm: str, **options: Any) -> Any:
    env = matrix.environment(algorithm, "Box", matrix.action_spaces(algorithm)[0])
    return matrix.make(
        algorithm, env, next(iter(matrix.policies(algorithm))), policy_kwargs=options
    )


def bodies(model: Any) -> list[PopulationBody]:
    return [module for module in model.policy.modules() if isinstance(module, PopulationBody)]


@pytest.mark.parametrize("algorithm", WITH_ACTOR)
def test_intra_layer_trains_saves_and_loads(algorithm: str, tmp_path: Path) -> None:
    model = make(algorithm, intra_layer=True, **SMALL)
    (body,) = ActingNetwork(model.policy).spiking_bodies()
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    model.learn(40)
    (body,) = ActingNetwork(model.policy).spiking_bodies()
    for name in ("mlp.intra_layer.weight", "mlp.intra_layer.bias"):
        assert not body.state_dict()[name].equal(before[name]), name
    model.save(tmp_path / "model")
    loaded = matrix.ALGORITHMS[algorithm].load(tmp_path / "model")
    obs = np.random.default_rng(0).uniform(-1, 1, (40, *model.observation_space.shape))
    expected, _ = model.predict(obs.astype(np.float32), deterministic=True)
    found, _ = loaded.predict(obs.astype(np.float32), deterministic=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "PPO", "TQC"])
def test_spiking_critics_have_no_intra_layer(algorithm: str) -> None:
    model = make(algorithm, intra_layer=True, spiking_critic=True, **SMALL)
    (actor,) = ActingNetwork(model.policy).spiking_bodies()
    assert actor.mlp.intra_layer is not None
    connected = [body for body in bodies(model) if body.mlp.intra_layer is not None]
    assert len(connected) == (2 if algorithm == "TD3" else 1)  # TD3's target is an actor, too
    assert len(bodies(model)) > len(connected)


@pytest.mark.parametrize("algorithm", WITHOUT_ACTOR)
def test_intra_layer_is_refused_where_there_is_no_actor(algorithm: str) -> None:
    with pytest.raises(ValueError, match="intra_layer=True connects the output neurons of an act"):
        make(algorithm, intra_layer=True)


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "PPO"])
def test_event_driven_policies_act_alike(algorithm: str) -> None:
    pytest.importorskip("numba")
    model = make(algorithm, intra_layer=True, **SMALL)
    frozen = model.policy.to_event_driven()
    obs = np.random.default_rng(0).uniform(-1, 1, (40, *model.observation_space.shape))
    batched, _ = model.predict(obs.astype(np.float32), deterministic=True)
    assert np.ptp(batched) > 0
    for row, action in zip(obs.astype(np.float32), batched, strict=True):
        np.testing.assert_array_equal(frozen.predict(row)[0], action)
        np.testing.assert_array_equal(model.predict(row, deterministic=True)[0], action)


def one_update(algorithm: str, penalty: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The actor's parameters after one step of plain gradient descent, and what the actor saw."""
    torch.manual_seed(0)
    model = make(
        algorithm, synops_penalty=penalty, optimizer_class=torch.optim.SGD, actor_lr_scale=1.0,
        spiking_critic=algorithm != "CrossQ", **SMALL,
        **({"batch_norm": False} if algorithm in ("TD3", "DDPG") else {}),
    )  # fmt: skip
    model.lr_schedule = lambda _: 1e-3
    seen: list[tuple[PopulationBody, torch.Tensor]] = []
    spikes = PopulationBody.spikes

    def watched(self: PopulationBody, obs: torch.Tensor, deterministic: bool = False) -> Any:
        if self.config.synops_penalty and self.training and torch.is_grad_enabled():
            seen.append((copy.deepcopy(self), obs.detach()))
        return spikes(self, obs, deterministic)

    if algorithm in ("PPO", "A2C"):
        model.max_grad_norm = 1e9
        _, callback = model._setup_learn(16)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        model.n_epochs, model.batch_size = 1, model.n_steps
        train = model.train
    else:
        model.learn(12)  # fills the buffer
        model.policy_delay = 1
        train = lambda: model.train(gradient_steps=1, batch_size=8)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(PopulationBody, "spikes", watched)
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002  # SB3's buffers draw from it
        train()
    (body,) = ActingNetwork(model.policy).spiking_bodies()
    return {name: value.detach() for name, value in body.named_parameters()}, seen


def written_out(body: PopulationBody, obs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the mean of spikes times fan-out, in thousands."""
    senders = [body.encoder, *body.mlp.neurons]
    fan_out = [*(layer.out_features for layer in body.mlp.layers()), 1]
    parts: list[torch.Tensor] = []
    for module, targets in zip(senders, fan_out, strict=True):
        module.register_forward_hook(
            lambda module, _args, output, targets=targets: parts.append(
                targets * (output if isinstance(module, PopulationEncoder) else output[0]).sum()
            )
        )
    body.mlp.synops_penalty = 0.0
    body(obs)
    parameters = {n: p for n, p in body.named_parameters() if not n.startswith("decoder")}
    total = torch.stack(parts).sum() / len(obs) / 1000.0
    return dict(zip(parameters, torch.autograd.grad(total, [*parameters.values()]), strict=True))


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG", "SAC", "TQC", "CrossQ", "PPO", "A2C"])
def test_the_penalty_counts_once_in_each_update_of_the_actor(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same update without it, parameters differ by the rate times its gradient."""
    price = 5.0
    without, nothing = one_update(algorithm, 0.0, monkeypatch)
    charged, seen = one_update(algorithm, price, monkeypatch)
    assert nothing == []
    ((body, obs),) = seen
    gradients = written_out(body, obs)
    assert gradients.keys() <= charged.keys()
    for name, gradient in gradients.items():
        expected = -1e-3 * price * gradient
        assert float(expected.abs().max()) > 1e-6, name
        torch.testing.assert_close(
            charged[name] - without[name], expected, rtol=1e-3, atol=3e-7, msg=name
        )


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "PPO", "RecurrentPPO"])
def test_critics_and_targets_are_free(algorithm: str) -> None:
    model = make(algorithm, synops_penalty=0.3, spiking_critic=True, **SMALL)
    (actor,) = ActingNetwork(model.policy).spiking_bodies()
    assert actor.mlp.synops_penalty == 0.3
    others = [body for body in bodies(model) if body.mlp.synops_penalty and body is not actor]
    # TD3's target actor, which SB3 asks without gradients only
    assert len(others) == (1 if algorithm == "TD3" else 0)
    assert len(bodies(model)) > 1 + len(others)


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ("DQN", "DQN has no actor"),
        ("QRDQN", "QR-DQN has no actor"),
        ("ARS", "ARS takes no gradients"),
        ("TRPO", "TRPO takes gradients of several functions"),
    ],
)
def test_the_penalty_is_refused_where_no_loss_would_feel_it(algorithm: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"synops_penalty joins.*{reason}.*got 0.5"):
        make(algorithm, synops_penalty=0.5)


@pytest.mark.parametrize("bad", [-0.1, float("nan")])
def test_bad_penalties_are_named(bad: float) -> None:
    with pytest.raises(ValueError, match="synops_penalty must be in"):
        make("SAC", synops_penalty=bad)
