"""d3rlpy's Q-learning algorithms, small, with spiking networks in their encoder fields."""

import dataclasses
import functools
from typing import Any

import d3rlpy
from d3rlpy import algos
from d3rlpy.logging import NoopAdapterFactory
from torch import nn

from d3rlpy_spiking import PopulationSpikingEncoderFactory
from tests.d3rlpy_spiking.common import is_discrete, make_dataset

# Settings without which an algorithm would not train all its networks in a few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "AWAC": {},
    "BC": {},
    "BCQ": {"rl_start_step": 0},
    "BEAR": {"warmup_steps": 0},
    "CQL": {},
    "CRR": {},
    "CalQL": {},
    "DDPG": {},
    "DQN": {},
    "DiscreteBC": {},
    "DiscreteBCQ": {},
    "DiscreteCQL": {},
    "DiscreteSAC": {},
    "DoubleDQN": {},
    "IQL": {},
    "NFQ": {},
    "PLAS": {"warmup_steps": 2},
    "PLASWithPerturbation": {"warmup_steps": 2},
    "PRDC": {},
    "ReBRAC": {},
    "SAC": {},
    "TD3": {},
    "TD3PlusBC": {},
}


def small_factory(**changes: Any) -> PopulationSpikingEncoderFactory:
    fields: dict[str, Any] = {"hidden_units": [12, 8], "spike_steps": 3, "encoder_pop_size": 4}
    return PopulationSpikingEncoderFactory(**fields | changes)


def encoder_fields(config: type[Any]) -> list[str]:
    """The names of a config's encoder fields."""
    names = [field.name for field in dataclasses.fields(config)]
    return [name for name in names if name.endswith("encoder_factory")]


def make(name: str, **changes: Any) -> Any:
    """An algorithm whose every encoder spikes, unless `changes` names it."""
    config = getattr(algos, f"{name}Config")
    spiking = {field: small_factory() for field in encoder_fields(config)}
    return config(**{"batch_size": 8} | SETTINGS.get(name, {}) | spiking | changes).create()


def train(algo: Any, steps: int = 4) -> None:
    """Fit quietly; batches are drawn from a fixed seed."""
    algo.fit(
        make_dataset(is_discrete(algo)),
        n_steps=steps,
        n_steps_per_epoch=steps,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
    )


def networks(algo: Any) -> dict[str, nn.Module]:
    """The networks that an optimizer trains: all but the target networks."""
    modules = vars(algo.impl.modules)
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Module) and not name.startswith("targ_")
    }


@functools.cache
def trained(name: str) -> Any:
    """An algorithm after four steps; made once for all tests, who leave it as it is."""
    d3rlpy.seed(0)
    algo = make(name)
    train(algo)
    return algo
