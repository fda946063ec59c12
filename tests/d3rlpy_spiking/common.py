"""Small algorithms, data and contexts for the tests of this folder."""

from typing import Any

import d3rlpy
import numpy as np
from d3rlpy.algos import TransformerInput
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models import EncoderFactory, VectorEncoderFactory
from numpy.typing import NDArray

import d3rlpy_spiking as spiking

CONTINUOUS: dict[str, type[Any]] = {
    "sdt": spiking.SpikingDecisionTransformerConfig,
    "dsformer": spiking.DSFormerConfig,
    "strl": spiking.ContinuousSTRLConfig,
    "tacr": spiking.SpikingTACRConfig,
}
DISCRETE: dict[str, type[Any]] = {
    "discrete_sdt": spiking.DiscreteSpikingDecisionTransformerConfig,
    "discrete_dsformer": spiking.DiscreteDSFormerConfig,
    "discrete_strl": spiking.STRLConfig,
}
CONFIGS = CONTINUOUS | DISCRETE
ATTENTIONS = ("pssa", "tssa", "sssa", "softmax")
LENGTH = 6
ACTIONS = {"continuous": 2, "discrete": 3}


def encoder(width: int = 16) -> EncoderFactory:
    return VectorEncoderFactory([width], exclude_last_activation=True)


def make_config(name: str, **changes: Any) -> Any:
    """A small config; `encoder_factory` is the actor's for TACR."""
    fields: dict[str, Any] = {
        "batch_size": 8,
        "context_size": LENGTH,
        "max_timestep": 60,
        "num_layers": 2,
        "num_heads": 2,
        "ptbn_steps": 2,
        "window_size": 3,
        "encoder_factory": encoder(),
    } | changes
    if name == "tacr":
        fields["actor_encoder_factory"] = fields.pop("encoder_factory")
        if "learning_rate" in fields:
            fields["actor_learning_rate"] = fields.pop("learning_rate")
        if "optim_factory" in fields:
            fields["actor_optim_factory"] = fields.pop("optim_factory")
    return CONFIGS[name](**fields)


def is_discrete(algo: Any) -> bool:
    return bool(algo.get_action_type() == ActionSpace.DISCRETE)


def build(name: str, observation_shape: Any = (5,), **changes: Any) -> Any:
    """A built algorithm; the same name and changes give the same weights."""
    d3rlpy.seed(0)
    algo = make_config(name, **changes).create()
    actions = ACTIONS["discrete" if is_discrete(algo) else "continuous"]
    algo.create_impl(observation_shape, actions)
    return algo


def make_dataset(discrete: bool, episodes: int = 8, steps: int = 25, seed: int = 0) -> MDPDataset:
    """Episodes whose action follows from the observation, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    total = episodes * steps
    observations = rng.normal(size=(total, 5)).astype(np.float32)
    actions: NDArray[Any] = np.tanh(observations[:, :2])
    if discrete:
        actions = (observations[:, 0] > 0).astype(np.int64) + (observations[:, 1] > 0)
    terminals = np.zeros(total, np.float32)
    terminals[steps - 1 :: steps] = 1.0
    rewards = rng.normal(size=total).astype(np.float32)
    return MDPDataset(observations, actions, rewards, terminals)


def train(algo: Any, n_steps: int, n_steps_per_epoch: int | None = None, **kwargs: Any) -> None:
    """Fit quietly; batches are drawn from a fixed seed."""
    d3rlpy.seed(0)
    arguments: dict[str, Any] = {"logger_adapter": NoopAdapterFactory(), "show_progress": False}
    algo.fit(
        make_dataset(is_discrete(algo)),
        n_steps=n_steps,
        n_steps_per_epoch=n_steps_per_epoch or n_steps,
        **(arguments | kwargs),
    )


def make_context(algo: Any, length: int = LENGTH, seed: int = 0) -> TransformerInput:
    """A context of that length for an algorithm with observations of size 5."""
    rng = np.random.default_rng(seed)
    actions: NDArray[Any] = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    if is_discrete(algo):
        actions = rng.integers(0, 3, (length, 1))
    return TransformerInput(
        observations=rng.normal(size=(length, 5)).astype(np.float32),
        actions=actions,
        rewards=np.zeros((length, 1), np.float32),
        returns_to_go=rng.normal(size=(length, 1)).astype(np.float32),
        timesteps=np.arange(1, length + 1),
    )
