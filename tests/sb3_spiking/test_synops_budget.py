"""The price of spikes that a budget of synaptic operations asks for."""

import math
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.callbacks import BaseCallback

from policies.spiking_mlp import SpikingMLP
from sb3_spiking.synops_budget import SynopsBudgetCallback

SMALL: dict[str, Any] = {"net_arch": [16, 16], "encoder_pop_size": 4, "decoder_pop_size": 4}
LOWEST = 0.002


def make(policy: str = "SpikingPopPolicy", penalty: float = LOWEST, **kwargs: Any) -> TD3:
    settings: dict[str, Any] = {
        "seed": 0, "device": "cpu", "learning_starts": 20, "batch_size": 16, "buffer_size": 500,
        "policy_kwargs": {**SMALL, "synops_penalty": penalty},
    }  # fmt: skip
    return TD3(policy, "Pendulum-v1", **{**settings, **kwargs})


def price(model: Any) -> float:
    found: float = model.synops_price
    return found


class Watch(BaseCallback):
    """What is logged, and the price in the network, at each look."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.seen: list[tuple[float, float, float]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            found = self.logger.name_to_value
            shown = (found["spikes/synops_price"], found["spikes/synops_of_budget"])
            mlp = self.model.actor.mu.mlp  # type: ignore[attr-defined]  # TD3's
            assert isinstance(mlp, SpikingMLP)
            self.seen.append((*shown, mlp.synops_penalty))
        return True


def test_the_price_follows_its_formula() -> None:
    model, watch = make(), Watch(20)
    # About what an untrained one takes, so that the shares lie on both sides of 1 or near it.
    model.learn(100, callback=[SynopsBudgetCallback(800, every=20, rate=0.5), watch])
    expected = LOWEST
    assert watch.seen[0][0] == watch.seen[0][2] == LOWEST  # nothing has learned yet
    for shown, share, there in watch.seen[1:]:
        expected = max(expected * math.exp(0.5 * min(max(share - 1.0, -1.0), 1.0)), LOWEST)
        assert shown == there == pytest.approx(expected)
    assert len(watch.seen) == 5
    assert all(share > 0.0 for _, share, _ in watch.seen)


@pytest.mark.parametrize(
    ("budget", "rate", "expected"),
    [
        (1, 0.25, LOWEST * math.exp(0.25 * 3)),  # far above: the factor is cut off
        (1, 5.0, LOWEST * 1_000.0),  # and the price
        (1e9, 0.25, LOWEST),  # within the budget: never below what was given
    ],
)
def test_the_price_has_bounds(budget: float, rate: float, expected: float) -> None:
    model = make()
    model.learn(50, callback=SynopsBudgetCallback(budget, every=10, rate=rate))
    assert price(model) == pytest.approx(expected)


def test_files_keep_the_price(tmp_path: Path) -> None:
    model = make()
    callback = SynopsBudgetCallback(1, every=10)
    model.learn(30, callback=callback)
    model.save(tmp_path / "model")
    loaded = TD3.load(tmp_path / "model", env=model.get_env(), device="cpu")
    loaded.learn(20, callback=SynopsBudgetCallback(1, every=10), reset_num_timesteps=False)
    # One look after learning began, and two.
    assert price(loaded) == pytest.approx(LOWEST * math.exp(0.25 * 3))
    mlp = loaded.actor.mu.mlp
    assert isinstance(mlp, SpikingMLP)
    assert mlp.synops_penalty == LOWEST  # of a training without the callback


@pytest.mark.parametrize(("given", "expected"), [(50.0, 50.0), (1e-6, 1e-3)])
def test_a_price_of_other_bounds(given: float, expected: float, tmp_path: Path) -> None:
    model = make()
    model.learn(60, callback=SynopsBudgetCallback(1, every=10, rate=2.0))
    assert price(model) == LOWEST * 1_000.0
    model.save(tmp_path / "model")
    kwargs = {**SMALL, "synops_penalty": given}
    loaded = TD3.load(
        tmp_path / "model", env=model.get_env(), custom_objects={"policy_kwargs": kwargs}
    )
    loaded.learn(2, callback=SynopsBudgetCallback(1, every=100), reset_num_timesteps=False)
    assert price(loaded) == pytest.approx(expected)


def test_no_price_rises_before_learning() -> None:
    model = make(learning_starts=100)
    model.learn(90, callback=SynopsBudgetCallback(1, every=10))
    assert price(model) == LOWEST


def test_it_draws_no_random_numbers() -> None:
    # One after the other: making a model seeds the global generators.
    with_it = make().learn(60, callback=SynopsBudgetCallback(1e9, every=10))
    without = make().learn(60)
    for ours, theirs in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True):
        assert ours.equal(theirs)


def test_a_budget_takes_spikes() -> None:
    ends: dict[float, float] = {}
    for budget in (300.0, 1e9):
        watch = Watch(100)
        callback = SynopsBudgetCallback(budget, every=100, rate=1.0)
        make().learn(1_500, callback=[callback, watch])
        ends[budget] = watch.seen[-1][1] * budget
    assert ends[300.0] < 0.8 * ends[1e9], ends


def test_dense_and_on_policy() -> None:
    make("MlpPolicy", policy_kwargs={}).learn(30, callback=SynopsBudgetCallback(1, every=5))
    ppo = PPO(
        "SpikingPopPolicy", "Pendulum-v1", n_steps=16, batch_size=16, device="cpu",
        policy_kwargs={**SMALL, "synops_penalty": LOWEST},
    )  # fmt: skip
    ppo.learn(32, callback=SynopsBudgetCallback(1, every=8))
    assert ppo.synops_price > LOWEST  # type: ignore[attr-defined]  # the callback's


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="budget must be in"):
        SynopsBudgetCallback(0)
    with pytest.raises(ValueError, match="every must be at least 1"):
        SynopsBudgetCallback(10, every=0)
    with pytest.raises(ValueError, match="rate must be in"):
        SynopsBudgetCallback(10, rate=0.0)
    with pytest.raises(ValueError, match="synops_penalty, got 0"):
        make(penalty=0.0).learn(5, callback=SynopsBudgetCallback(10))
