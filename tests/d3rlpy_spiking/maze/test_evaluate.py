"""Accuracy, rollouts and the leak check."""

import math
from collections.abc import Callable
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.algos import GreedyTransformerActionSampler
from torch import Tensor

from d3rlpy_spiking.maze import (
    LeakError,
    Moment,
    WavefrontEncoderFactory,
    accuracy,
    leak_check,
    observe,
    predict,
    rollout_success,
)
from tests.d3rlpy_spiking.maze.common import small_data, small_transformer, transformer

DATA = small_data()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_timestep": 4},
        {
            "observation_scaler": d3rlpy.preprocessing.MinMaxObservationScaler(
                minimum=np.zeros((6, 5, 5)), maximum=np.full((6, 5, 5), 2.0)
            ),
            "reward_scaler": d3rlpy.preprocessing.MultiplyRewardScaler(0.3),
        },
    ],
    ids=["plain", "short clock", "scalers"],
)
def test_batched_prediction_equals_the_stateful_wrapper(changes: dict[str, Any]) -> None:
    algo = small_transformer(seed=1, **changes)
    maze = DATA.pairs.mazes[0]
    wrapper = algo.as_stateful_wrapper(1.0, GreedyTransformerActionSampler())
    goals = [(4, 4), (0, 3), (2, 2)]
    moments: list[Moment] = []
    expected: list[int] = []
    for goal in goals:
        wrapper.reset()
        cells: list[tuple[int, int]] = [(0, 0)]
        actions: list[int] = []
        for _ in range(10):
            moments.append(Moment(maze, goal, tuple(cells), tuple(actions)))
            actions.append(wrapper.predict(observe(maze, goal, cells[-1:])[0], 0.0))
            cells.append(maze.step(cells[-1], actions[-1]))
        expected += actions
    # Otherwise the test would compare constants.
    assert len(set(expected)) > 1
    assert predict(algo, moments, batch_size=7).tolist() == expected


def test_accuracy_counts_every_shortest_path_action(monkeypatch: pytest.MonkeyPatch) -> None:
    last = iter(
        [int(np.flatnonzero(best)[-1]) for walk in DATA.pairs.walks for best in walk.optimal]
    )
    algo = small_transformer()
    _answer(monkeypatch, algo, lambda observations: [next(last) for _ in observations])
    result = accuracy(algo, DATA.pairs)
    assert result.steps == DATA.pairs.steps
    assert (result.optimal, result.strict) == (1.0, 1.0)
    assert result.strict_steps == DATA.pairs.steps - DATA.pairs.seen_steps
    # The expert takes the first of several actions, this one the last.
    assert 0.5 < result.expert < 1.0


def test_accuracy_of_a_constant_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = small_transformer()
    _answer(monkeypatch, algo, lambda observations: [2] * len(observations))
    optimal = np.concatenate([walk.optimal[:, 2] for walk in DATA.pairs.walks])
    fresh = ~np.concatenate(DATA.pairs.seen)
    result = accuracy(algo, DATA.pairs)
    assert result.optimal == pytest.approx(optimal.mean())
    assert result.strict == pytest.approx(optimal[fresh].mean())
    actions = np.concatenate([walk.actions for walk in DATA.pairs.walks])
    assert result.expert == pytest.approx((actions == 2).mean())
    part = accuracy(algo, DATA.pairs, max_walks=3)
    assert part.steps < result.steps
    assert math.isnan(accuracy(algo, DATA.train).strict)


def _answer(
    monkeypatch: pytest.MonkeyPatch, algo: Any, choose: Callable[[Tensor], list[int]]
) -> None:
    """Make the algorithm's torch module answer `choose(last observations [B, 6, H, W])`."""

    def forward(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(choose(x[:, -1]))
        logits = torch.nn.functional.one_hot(chosen, 4).float()
        logits = logits.unsqueeze(1).expand(-1, x.shape[1], -1)
        return logits.softmax(-1), logits

    monkeypatch.setattr(transformer(algo), "forward", forward)


def _expert_answers(detour: bool = False) -> Callable[[Tensor], list[int]]:
    best = {}
    for maze_set in (DATA.pairs, DATA.mazes):
        for walk in maze_set.walks:
            seen = observe(maze_set.mazes[walk.maze], walk.goal, walk.cells[:-1])
            for observation, action in zip(seen, walk.actions, strict=True):
                best[observation.tobytes()] = action
    bumped: set[bytes] = set()

    def choose(observations: Tensor) -> list[int]:
        actions = []
        for observation in observations.numpy().astype(np.uint8):
            key = observation.tobytes()
            action = best[key]
            walls = np.flatnonzero(observation[:4][:, observation[5] == 1][:, 0] == 0)
            if detour and key not in bumped and walls.size:
                bumped.add(key)
                action = int(walls[0])
            actions.append(action)
        return actions

    return choose


def test_rollouts_of_the_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = small_transformer()
    _answer(monkeypatch, algo, _expert_answers())
    result = rollout_success(algo, DATA.mazes, batch_size=8)
    assert result.episodes == len(DATA.mazes.walks)
    assert (result.success, result.optimal, result.stretch) == (1.0, 1.0, 1.0)


def test_rollouts_count_detours_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = small_transformer()
    _answer(monkeypatch, algo, _expert_answers(detour=True))
    detours = rollout_success(algo, DATA.mazes, max_steps=100)
    assert detours.success == 1.0
    assert detours.optimal < 0.9
    assert detours.stretch > 1.0
    hurried = rollout_success(algo, DATA.mazes, max_steps=1)
    direct = np.mean([len(walk.actions) == 1 for walk in DATA.mazes.walks])
    assert hurried.success == pytest.approx(direct)
    _answer(monkeypatch, algo, lambda observations: [0] * len(observations))
    assert rollout_success(algo, DATA.mazes, max_walks=6).episodes == 6


def test_leak_check_passes_a_causal_transformer() -> None:
    assert leak_check(small_transformer(), DATA.mazes) < 1e-5


@pytest.mark.parametrize("shift", [0, 1])
def test_leak_check_finds_a_leak(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    algo = small_transformer()
    module = transformer(algo)
    honest = module.forward

    def leaking(x: Tensor, action: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        logits = honest(x, action, *rest)[1]
        peek = torch.nn.functional.one_hot(action[..., 0].long(), 4).roll(-shift, dims=1)
        return logits, logits + 0.1 * peek

    monkeypatch.setattr(module, "forward", leaking)
    with pytest.raises(LeakError, match=r"moved by 0\.1"):
        leak_check(algo, DATA.mazes)


def test_mode_is_restored() -> None:
    algo = small_transformer()
    for training in (True, False):
        transformer(algo).train(training)
        leak_check(algo, DATA.mazes, max_walks=2)
        assert transformer(algo).training == training


def test_refusals() -> None:
    with pytest.raises(TypeError, match="transformer algorithm, got DQN"):
        accuracy(d3rlpy.algos.DQNConfig().create(), DATA.pairs)
    with pytest.raises(TypeError, match="discrete actions"):
        accuracy(d3rlpy.algos.DecisionTransformerConfig().create(), DATA.pairs)
    config = d3rlpy.algos.DiscreteDecisionTransformerConfig(
        encoder_factory=WavefrontEncoderFactory()
    )
    with pytest.raises(ValueError, match="is not built"):
        accuracy(config.create(), DATA.pairs)
    with pytest.raises(ValueError, match="batch_size"):
        predict(small_transformer(), [], batch_size=0)
