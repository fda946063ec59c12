"""Algorithms with fixed batches and noise, of which each rank gets its part."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.type_aliases import (
    ReplayBufferSamples,
    RolloutBufferSamples,
)
from torch import Tensor
from torch.distributions import normal

import sb3_spiking  # noqa: F401  # registers the policies

UPDATES = 20
BATCH = 32  # of all ranks
KWARGS: dict[str, Any] = {"net_arch": [32, 32]}
Digits = gymnasium.Env[Any, Any]


class Walk(gymnasium.Env[Any, Any]):
    """Observations that follow no rule; actions of one kind or the other."""

    def __init__(self, discrete: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(size=5).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs = self.np_random.normal(size=5).astype(np.float32)
        return obs, float(obs[0]), bool(self.np_random.random() < 0.1), False, {}

    def action_masks(self) -> Any:
        return np.array([True, True, False])


def build(name: str) -> Any:
    """A new model; every call gives the same one."""
    policy_kwargs = dict(KWARGS)
    bare = {**KWARGS, "batch_norm": False}
    more: dict[str, Any] = {"policy_kwargs": policy_kwargs, "seed": 1, "device": "cpu"}
    off = {**more, "learning_starts": 5, "batch_size": BATCH}
    on = {**more, "n_steps": 64}
    makers: dict[str, Callable[[], Any]] = {
        # Batch normalization takes each rank's own batch: see test_statistics.
        "td3": lambda: TD3("SpikingPopPolicy", Walk(), **{**off, "policy_kwargs": bare}),
        "td3 float32": lambda: TD3(
            "SpikingPopPolicy", Walk(), **{**off, "policy_kwargs": {**bare, "matmul": "float32"}}
        ),
        "td3 dense": lambda: TD3("MlpPolicy", Walk(), **off),
        "sac": lambda: SAC("SpikingPopPolicy", Walk(), **off),
        "tqc": lambda: TQC("SpikingPopPolicy", Walk(), **off),
        "crossq": lambda: CrossQ("SpikingPopPolicy", Walk(), **off),
        "crossq dense": lambda: CrossQ("MlpPolicy", Walk(), **off),
        "dqn": lambda: DQN("SpikingPopPolicy", Walk(True), max_grad_norm=0.1, **off),
        "qrdqn": lambda: QRDQN("SpikingPopPolicy", Walk(True), **off),
        "ppo": lambda: PPO("SpikingPopPolicy", Walk(), n_epochs=1, max_grad_norm=0.1, **on),
        "ppo dense": lambda: PPO("MlpPolicy", Walk(), n_epochs=1, max_grad_norm=0.1, **on),
        "a2c": lambda: A2C("SpikingPopPolicy", Walk(True), normalize_advantage=True, **on),
        "maskable ppo": lambda: MaskablePPO("SpikingPopPolicy", Walk(True), n_epochs=1, **on),
        "recurrent ppo": lambda: RecurrentPPO("SpikingPopLstmPolicy", Walk(), n_epochs=1, **on),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = makers[name]()
        model._setup_learn(1000)
    if hasattr(model, "policy_delay"):
        model.policy_delay = 1  # every update has gradients of all networks
    if name.startswith("crossq"):
        for module in model.policy.modules():
            if hasattr(module, "warmup_steps"):
                module.warmup_steps = 5  # both phases within the updates
    return model


NAMES = (
    "td3", "td3 float32", "td3 dense", "sac", "tqc", "crossq", "crossq dense", "dqn", "qrdqn",
    "ppo", "ppo dense", "a2c", "maskable ppo", "recurrent ppo",
)  # fmt: skip


class Replay:
    """Fixed batches, one a call; rank r of n gets the r-th n-th of each."""

    def __init__(self, discrete: bool, rank: int, ranks: int) -> None:
        self._rng = torch.Generator().manual_seed(5)
        self._discrete, self._rank, self._ranks = discrete, rank, ranks

    def size(self) -> int:
        return BATCH

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        assert batch_size == BATCH // self._ranks
        rng = self._rng
        actions: Tensor = torch.rand(BATCH, 2, generator=rng) * 2 - 1
        if self._discrete:
            actions = torch.randint(0, 3, (BATCH, 1), generator=rng)
        whole = (
            torch.randn(BATCH, 5, generator=rng),
            actions,
            torch.randn(BATCH, 5, generator=rng),
            (torch.rand(BATCH, 1, generator=rng) < 0.1).float(),
            torch.randn(BATCH, 1, generator=rng),
        )
        return ReplayBufferSamples(*(x.chunk(self._ranks)[self._rank] for x in whole))


class Rollouts:
    """Fixed minibatches, likewise; recurrent ones are of padded sequences."""

    def __init__(self, model: Any, name: str, rank: int, ranks: int, batches: int = 1) -> None:
        rng = torch.Generator().manual_seed(6)
        self.returns, self.values = np.zeros(8), np.ones(8)
        self._parts = []
        for _ in range(batches):
            data = _sequences(rng) if "recurrent" in name else _steps(model, name, rng)
            self._parts.append(type(data)(*(_part(x, rank, ranks) for x in data)))

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        yield from self._parts


def _part(x: Any, rank: int, ranks: int) -> Any:
    if isinstance(x, RNNStates):
        return RNNStates(*(tuple(s.chunk(ranks, 1)[rank].contiguous() for s in part) for part in x))
    return x.chunk(ranks)[rank]


def _steps(model: Any, name: str, rng: torch.Generator) -> Any:
    discrete = isinstance(model.action_space, spaces.Discrete)
    actions: Tensor = torch.randn(BATCH, 2, generator=rng)
    if discrete:
        actions = torch.randint(0, 2, (BATCH, 1), generator=rng).float()
    fields = [
        torch.randn(BATCH, 5, generator=rng),
        actions,
        *(torch.randn(BATCH, generator=rng) * scale for scale in (1.0, 0.3)),
        torch.randn(BATCH, generator=rng) * 3.0 + 1.0,
        torch.randn(BATCH, generator=rng),
    ]
    fields[3] -= 1.0  # log probabilities
    if "maskable" in name:
        from sb3_contrib.common.maskable.buffers import MaskableRolloutBufferSamples

        samples: Any = MaskableRolloutBufferSamples
        return samples(*fields, torch.tensor([[1.0, 1.0, 0.0]] * BATCH))
    return RolloutBufferSamples(*fields)


def _sequences(rng: torch.Generator) -> RecurrentRolloutBufferSamples:
    sequences, length, hidden = 4, 8, 256
    lengths = torch.tensor([8, 3, 2, 1])  # ranks have 11 and 3 valid steps
    mask = (torch.arange(length) < lengths[:, None]).float().flatten()
    starts = (torch.arange(length) == 0).float().repeat(sequences)
    rows = sequences * length
    draws = [torch.randn(rows, generator=rng) for _ in range(4)]
    state = tuple(torch.zeros(1, sequences, hidden) for _ in range(2))
    return RecurrentRolloutBufferSamples(
        torch.randn(rows, 5, generator=rng), torch.randn(rows, 2, generator=rng),
        draws[0], draws[1] * 0.3 - 3.0, draws[2] * 3.0 + 1.0, draws[3],
        RNNStates(state, state), starts, mask,
    )  # fmt: skip


@contextmanager
def same_noise(rank: int, ranks: int) -> Iterator[None]:
    """Every draw is made for all ranks, of which each takes its part."""
    rng = torch.Generator().manual_seed(7)

    def part(shape: Any) -> Tensor:
        whole = torch.randn(shape[0] * ranks, *shape[1:], generator=rng)
        return whole.chunk(ranks)[rank]

    def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return x.copy_(part(x.shape) * std + mean)

    with (
        mock.patch.object(torch.Tensor, "normal_", normal_),
        mock.patch.object(normal, "_standard_normal", lambda shape, dtype, device: part(shape)),
    ):
        yield


def run(model: Any, name: str, rank: int, ranks: int, updates: int) -> dict[str, Tensor]:
    """Gradients of each optimizer at its first step, and all parameters and buffers at the end."""
    first: dict[str, Tensor] = {}
    names = {id(p): key for key, p in model.policy.named_parameters()}

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    key = f"grad {names.get(id(p), 'log_ent_coef')}"
                    first.setdefault(key, p.grad.clone())

    from sb3_spiking.distributed.steps import optimizers

    for _, optimizer in optimizers(model):
        optimizer.register_step_pre_hook(note)
    with same_noise(rank, ranks):
        if hasattr(model, "rollout_buffer"):
            for _ in range(updates):
                model.rollout_buffer = Rollouts(model, name, rank, ranks)
                model.train()
        else:
            discrete = isinstance(model.action_space, spaces.Discrete)
            model.replay_buffer = Replay(discrete, rank, ranks)
            model.train(gradient_steps=updates, batch_size=BATCH // ranks)
    end = {f"end {key}": x.clone() for key, x in model.policy.state_dict().items()}
    if getattr(model, "log_ent_coef", None) is not None:
        end["end log_ent_coef"] = model.log_ent_coef.detach().clone()
    return first | end
