"""What two ranks find out where they are not alike: in configs, data, hooks and losses."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import d3rlpy
from d3rlpy.algos import DecisionTransformerConfig
from d3rlpy.optimizers import OptimizerWrapper
from d3rlpy.preprocessing import StandardObservationScaler

from d3rlpy_spiking import distribute
from policies.distributed import rank
from tests.d3rlpy_spiking.common import LENGTH, make_config, make_dataset
from tests.d3rlpy_spiking.distributed_checks import (
    PLAIN,
    TOKENS,
    batch_of,
    equal,
    joined,
    make,
    updated,
)


class Own(OptimizerWrapper):
    """An optimizer that takes steps of its own."""


def refused() -> dict[str, str]:
    """What ranks that differ are told."""
    cases: dict[str, Callable[[], object]] = {
        "learning rate": _learning_rate,
        "algorithm": lambda: make("sdt" if rank() else "dsformer"),
        "scaler": lambda: _fit("dsformer", num_layers=1, ptbn_steps=1),
        "dense scaler": lambda: _fit("decision_transformer"),
        "mode": _mode,
        "optimizer": _optimizer,
    }
    found = {}
    for name, case in cases.items():
        try:
            case()
        except ValueError as error:
            found[name] = str(error)
    return found


def _learning_rate() -> None:
    rate = 1e-3 * (1 + rank())
    algo = make_config("dsformer", learning_rate=rate, num_layers=1).create(enable_ddp=True)
    algo.create_impl((5,), 2)


def _fit(name: str, **changes: Any) -> None:
    """Each rank fits its scaler to data of its own, after `distribute`."""
    algo = make(name, observation_scaler=StandardObservationScaler(), **changes)
    algo.fit(
        make_dataset(False, seed=rank()),
        n_steps=1,
        n_steps_per_epoch=1,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )


def _mode() -> None:
    algo = make("dsformer")
    algo.impl.network.backbone.transformer.blocks[1].train(rank() == 0)
    updated(algo, 1)


def _optimizer() -> None:
    algo = DecisionTransformerConfig(num_layers=1).create()
    algo.create_impl((5,), 2)
    algo.impl.modules.optim.__class__ = Own
    distribute(algo)


def hooked() -> dict[str, Any]:
    """Training where rank 1 has hooks, which compiled layers pass by, in the second step of three.

    Returns:
        what `updated` finds, and how often the ranks were warned.
    """
    algo = make("dsformer", num_layers=1, kernel="auto")
    part = algo.impl.network.backbone.transformer.blocks[0].mlp.up
    found: list[dict[str, bool]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(3):
            if step == 1 and rank() == 1:
                part.register_forward_hook(lambda *_: None)
            found.append(updated(algo, 1))
            part._forward_hooks.clear()
    return {
        "same": [step["same state"] and step["moved"] for step in found],
        "warned": sum("not in another one" in str(warning.message) for warning in caught),
    }


def losses() -> dict[str, Any]:
    """The loss that both ranks report, and that of one process with both batches; then with NaN."""
    alone = make("dsformer", enable_ddp=False, **PLAIN)
    batches = [batch_of(rows, seed, False) for seed, rows in TOKENS.items()]
    expected = alone.impl.update(joined(batches), 0)["loss"]
    algo = make("dsformer", **PLAIN)
    loss = algo.impl.update(batches[rank()], 0)["loss"]
    tacr = make("tacr").update(make_dataset(False, seed=rank()).sample_trajectory_batch(8, LENGTH))
    batches[1].rewards[0] = math.nan
    batches[1].observations[0] = math.nan
    broken = algo.impl.update(batches[rank()], 0)["loss"]
    return {
        "loss": loss,
        "expected": expected,
        "tacr": equal({name: value for name, value in tacr.items() if "loss" in name}),
        "tacr's": sorted(name for name in tacr if "loss" in name),
        "broken": repr(broken),
    }
