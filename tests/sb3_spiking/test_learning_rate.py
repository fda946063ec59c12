import copy
import pickle
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import TD3

from tests.sb3_spiking import matrix
from tests.sb3_spiking.test_td3 import make


def biggest_adam_step(model: TD3, rate: float) -> float:
    """Largest change of an actor weight in one fresh Adam step at SB3's rate.

    Adam's first step moves each weight by its rate whatever the gradient's size, so the change
    shows the rate that was really used.
    """
    optimizer = model.actor.optimizer
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["lr"] = rate
    before = [p.detach().clone() for p in model.actor.parameters()]
    for p in model.actor.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    changes = [
        (p - b).abs().max().item() for p, b in zip(model.actor.parameters(), before, strict=True)
    ]
    return max(changes)


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.01])
def test_actor_steps_with_its_own_rate_and_shows_the_shared_one(scale: float) -> None:
    model = make(policy_kwargs={"actor_lr_scale": scale})
    assert biggest_adam_step(model, 0.01) == pytest.approx(0.01 * scale, rel=1e-2)
    # SB3 and its logger read the rate that they wrote.
    assert model.actor.optimizer.param_groups[0]["lr"] == 0.01
    assert biggest_adam_step(model, 0.01) == pytest.approx(0.01 * scale, rel=1e-2)


@pytest.mark.parametrize(("recipe", "scale"), [("popsan", 0.3), ("counting", 1.0)])
def test_default_scale(recipe: str, scale: float) -> None:
    model = make(policy_kwargs={"recipe": recipe})
    assert biggest_adam_step(model, 0.01) == pytest.approx(0.01 * scale, rel=1e-2)


def test_effective_rate_over_a_schedule() -> None:
    """SB3 writes schedule(progress) before each train(); the actor must use 0.3 of it each time."""
    model = make(
        learning_rate=lambda progress: 1e-2 * progress,
        policy_delay=1,
        policy_kwargs={"actor_lr_scale": 0.3},
    )
    used: list[tuple[float, float]] = []
    # Inside the wrapped step the rate is what the optimizer will use.
    inner = model.actor.optimizer.register_step_pre_hook(
        lambda optimizer, args, kwargs: used.append(
            (optimizer.param_groups[0]["lr"], model.critic.optimizer.param_groups[0]["lr"])
        )
    )
    model.learn(100)
    inner.remove()
    assert len(used) == 80
    for n, (actor_rate, critic_rate) in enumerate(used):
        shared = 1e-2 * (1 - (21 + n) / 100)
        assert critic_rate == pytest.approx(shared, abs=1e-9)
        assert actor_rate == pytest.approx(0.3 * shared, abs=1e-9)


def test_the_critics_keep_the_shared_rate() -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.01}, learning_rate=1e-2)
    critic = model.critic.optimizer
    critic.state.clear()
    before = [p.detach().clone() for p in model.critic.parameters()]
    for p in model.critic.parameters():
        p.grad = torch.ones_like(p)
    critic.step()
    change = max(
        (p - b).abs().max().item() for p, b in zip(model.critic.parameters(), before, strict=True)
    )
    assert change == pytest.approx(1e-2, rel=1e-2)


def test_copies_and_loaded_models_keep_the_scale(tmp_path: Path) -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.1})
    model.learn(40)
    model.save(tmp_path / "model")
    for other in (
        copy.deepcopy(model),
        TD3.load(tmp_path / "model", env=gym.make("Pendulum-v1")),
        copy.deepcopy(copy.deepcopy(model)),
    ):
        assert biggest_adam_step(other, 0.01) == pytest.approx(0.001, rel=1e-2)
    actor = pickle.loads(pickle.dumps(model.actor))
    assert len(actor.optimizer._optimizer_step_pre_hooks) == 1


def test_shallow_copies_and_failed_steps_do_not_scale_twice() -> None:
    model = make(policy_kwargs={"actor_lr_scale": 0.1})
    copy.copy(model.actor)  # shares the optimizer
    assert biggest_adam_step(model, 0.01) == pytest.approx(0.001, rel=1e-2)
    optimizer = model.actor.optimizer

    def fail() -> float:
        raise RuntimeError("closure")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="closure"):
            optimizer.step(fail)
    before = [p.detach().clone() for p in model.actor.parameters()]
    optimizer.state.clear()
    optimizer.step()  # without a new rate from SB3
    changes = zip(model.actor.parameters(), before, strict=True)
    assert max((p - b).abs().max().item() for p, b in changes) == pytest.approx(0.001, rel=1e-2)
    assert optimizer.param_groups[0]["lr"] == 0.01
    # A rate that SB3 writes after a failed step counts, though it equals the scaled one.
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step(fail)
    assert biggest_adam_step(model, float("0.001")) == pytest.approx(0.0001, rel=1e-2)


def test_adamw_and_sgd_are_scaled_too() -> None:
    for optimizer in (torch.optim.SGD, torch.optim.AdamW):
        kwargs = {"optimizer_class": optimizer, "optimizer_kwargs": {"weight_decay": 0.0}}
        model = make(policy_kwargs={"actor_lr_scale": 0.5, **kwargs})
        assert biggest_adam_step(model, 0.01) == pytest.approx(0.005, rel=1e-2)


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "TQC", "CrossQ"])
def test_every_actor_of_its_own_is_scaled(algorithm: str) -> None:
    env = matrix.environment(algorithm, "Box", "Box")
    model = matrix.make(algorithm, env, policy_kwargs={"actor_lr_scale": 0.1})
    for actor in (model.actor, copy.deepcopy(model.policy).actor):
        rates: list[float] = []
        actor.optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs, seen=rates: seen.append(optimizer.param_groups[0]["lr"])
        )
        actor.optimizer.param_groups[0]["lr"] = 0.01
        actor.optimizer.step()
        assert rates == [pytest.approx(1e-3)]
