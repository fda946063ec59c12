"""Every algorithm with every policy name, observation space and action space that SB3 allows."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

import sb3_spiking  # noqa: F401  # registers
from tests.sb3_spiking.envs import ACTION, BOX, DICT, IMAGE, TinyEnv

ALGORITHMS: dict[str, Any] = {
    "TD3": sb3.TD3,
    "DDPG": sb3.DDPG,
    "SAC": sb3.SAC,
    "PPO": sb3.PPO,
    "A2C": sb3.A2C,
    "DQN": sb3.DQN,
    "TQC": sb3_contrib.TQC,
    "CrossQ": sb3_contrib.CrossQ,
    "TRPO": sb3_contrib.TRPO,
    "QRDQN": sb3_contrib.QRDQN,
    "RecurrentPPO": sb3_contrib.RecurrentPPO,
    "MaskablePPO": sb3_contrib.MaskablePPO,
    "ARS": sb3_contrib.ARS,
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Box": ACTION,
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2]),
    "MultiBinary": spaces.MultiBinary(4),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX,
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(6),
    "image": IMAGE,
    "Dict": DICT,
}
FLAT = ["Box", "Discrete", "MultiDiscrete", "MultiBinary"]

OFF_POLICY: dict[str, Any] = {"learning_starts": 12, "batch_size": 8, "buffer_size": 60}
ON_POLICY: dict[str, Any] = {"n_steps": 16, "batch_size": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "DQN": {**OFF_POLICY, "train_freq": 1, "target_update_interval": 4},
    "QRDQN": {**OFF_POLICY, "train_freq": 1, "policy_kwargs": {"n_quantiles": 5}},
    "TQC": {**OFF_POLICY, "policy_kwargs": {"n_quantiles": 5}},
    "CrossQ": {**OFF_POLICY, "policy_delay": 1},
    "PPO": {**ON_POLICY, "n_epochs": 2},
    "MaskablePPO": {**ON_POLICY, "n_epochs": 2},
    "RecurrentPPO": {**ON_POLICY, "n_epochs": 2, "policy_kwargs": {"lstm_hidden_size": 6}},
    "TRPO": ON_POLICY,
    "A2C": {"n_steps": 8},
    "ARS": {"n_delta": 2, "delta_std": 0.5},
}
SMALL: dict[str, Any] = {
    "net_arch": [10], "encoder_pop_size": 4, "decoder_pop_size": 3, "spike_steps": 4,
}  # fmt: skip

REPLAY = ["TD3", "DDPG", "SAC", "TQC"]
FEATURES: dict[str, list[str]] = {
    "gSDE (`use_sde=True`)": ["SAC", "TQC", "CrossQ", "PPO", "A2C", "TRPO", "RecurrentPPO"],
    "HerReplayBuffer": [*REPLAY, "DQN", "QRDQN"],
    "VecFrameStack": list(ALGORITHMS),
    "VecNormalize": list(ALGORITHMS),
    "`spiking_critic=True`": [*REPLAY, "PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO"],
}


class Cell(NamedTuple):
    """One line of the matrix."""

    algorithm: str
    policy: str
    observation: str
    action: str

    def __str__(self) -> str:
        return "-".join(self)


def action_spaces(algorithm: str) -> list[str]:
    """Action spaces that the algorithm takes."""
    if algorithm in ("PPO", "A2C", "TRPO", "RecurrentPPO"):
        return list(ACTIONS)
    if algorithm == "MaskablePPO":
        return ["Discrete", "MultiDiscrete", "MultiBinary"]
    if algorithm == "ARS":
        return ["Box", "Discrete"]
    return ["Discrete"] if algorithm in ("DQN", "QRDQN") else ["Box"]


def policies(algorithm: str) -> dict[str, list[str]]:
    """Policy names of the algorithm and the observation spaces of each."""
    kind = "Lstm" if algorithm == "RecurrentPPO" else ""
    names = {f"SpikingPop{kind}Policy": FLAT}
    if algorithm != "ARS":
        names[f"SpikingPopCnn{kind}Policy"] = ["image"]
    if algorithm not in ("ARS", "CrossQ"):
        names[f"SpikingPopMultiInput{kind}Policy"] = ["Dict"]
    return names


def cells() -> Iterator[Cell]:
    """The whole matrix."""
    for algorithm in ALGORITHMS:
        for policy, observations in policies(algorithm).items():
            for pair in itertools.product(observations, action_spaces(algorithm)):
                yield Cell(algorithm, policy, *pair)


class MaskedEnv(TinyEnv):
    """Each sub-action but its first choice is allowed only sometimes."""

    def action_masks(self) -> NDArray[np.bool_]:
        space = self.action_space
        if isinstance(space, spaces.MultiBinary):
            sizes = [2] * int(np.prod(space.shape))
        elif isinstance(space, spaces.MultiDiscrete):
            sizes = space.nvec.tolist()
        else:
            assert isinstance(space, spaces.Discrete)
            sizes = [int(space.n)]
        masks = [self.np_random.random(size) < 0.5 for size in sizes]
        for mask in masks:
            mask[0] = True
        return np.concatenate(masks)


def make(algorithm: str, env: Any, policy: str = "SpikingPopPolicy", **changes: Any) -> Any:
    """A small model that learns within 24 steps."""
    settings = SETTINGS.get(algorithm, OFF_POLICY)
    kwargs = {**SMALL, **settings.get("policy_kwargs", {}), **changes.pop("policy_kwargs", {})}
    defaults = {**settings, "seed": 0, "device": "cpu", "policy_kwargs": kwargs}
    return ALGORITHMS[algorithm](policy, env, **{**defaults, **changes})


def environment(algorithm: str, observation: str, action: str) -> TinyEnv:
    """An environment with random observations of that space."""
    env = MaskedEnv if algorithm == "MaskablePPO" else TinyEnv
    return env(OBSERVATIONS[observation], ACTIONS[action])


def build(cell: Cell) -> Any:
    """The model of a cell."""
    env = environment(cell.algorithm, cell.observation, cell.action)
    return make(cell.algorithm, env, cell.policy)


def learn(model: Any) -> None:
    """Enough steps for updates."""
    model.learn(160 if type(model).__name__ == "ARS" else 24)
    assert model._n_updates > 0


def assert_moved(parameters: dict[str, nn.Parameter], before: dict[str, Tensor]) -> None:
    """Every tensor has changed and is finite."""
    for name, parameter in parameters.items():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name


def copies(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """What they are now."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def acting_parameters(model: Any) -> dict[str, nn.Parameter]:
    """Parameters of the spiking network that decides."""
    policy = model.policy
    for name in ("actor", "q_net", "quantile_net"):
        if hasattr(policy, name):
            return dict(getattr(policy, name).named_parameters())
    if hasattr(policy, "mlp_extractor"):
        modules = nn.ModuleList([policy.mlp_extractor.policy_net, policy.action_net])
        return dict(modules.named_parameters())
    return dict(policy.named_parameters())


def observations(model: Any, count: int = 16) -> Any:
    """A batch of observations of the model's space."""
    space = model.observation_space
    space.seed(1)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)
