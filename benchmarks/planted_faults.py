"""Does the spike doctor name planted faults, and leave sound runs alone?

    python -m benchmarks.planted_faults                  # ten planted faults, ten sound runs
    python -m benchmarks.planted_faults --seeds 200:230 --healthy 0

Each fault goes into a fresh policy of TD3, SAC, PPO or DQN: the kind, the algorithm, the layer, the
share of its neurons and the severity are drawn from the seed. Training then runs with a
SpikeMonitorCallback for two rollouts (of PPO: two of 2,048 steps; else two episodes of 200 steps).
A fault counts as named if the warnings are exactly its kind in its layer. Sound runs train for
3,000 to 6,000 steps from the start; any warning is a false alarm.

Seeds 0 to 99 were used while the limits were chosen; the defaults start at 100.
"""

import argparse
import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_spiking  # noqa: F401  # registers
from policies.actor import PopulationBody
from policies.monitor import NetworkActivity
from policies.population import PopulationReadout
from policies.surrogate import Surrogate
from policies.value import ValueReadout
from sb3_spiking.callbacks import SpikeFaultWarning, SpikeMonitorCallback

# algorithm, environment, steps of two rollouts
TARGETS: dict[str, tuple[Any, str, int]] = {
    "TD3": (sb3.TD3, "Pendulum-v1", 400),
    "SAC": (sb3.SAC, "Pendulum-v1", 400),
    "PPO": (sb3.PPO, "Pendulum-v1", 4096),
    "DQN": (sb3.DQN, "Acrobot-v1", 400),
}
# algorithm, environment, steps, settings: three algorithms and more, from the first step on
SOUND: list[tuple[Any, str, int, dict[str, Any]]] = [
    (sb3.TD3, "Pendulum-v1", 4000, {}),
    (sb3.TD3, "HalfCheetah-v4", 4000, {"learning_starts": 1000}),
    (sb3.TD3, "Hopper-v4", 3000, {}),
    (sb3.SAC, "Pendulum-v1", 3000, {}),
    (sb3.SAC, "Walker2d-v4", 3000, {}),
    (sb3.PPO, "CartPole-v1", 6144, {}),
    (sb3.PPO, "HalfCheetah-v4", 6144, {}),
    (sb3.A2C, "Acrobot-v1", 5000, {}),
    (sb3.DQN, "CartPole-v1", 5000, {}),
    (sb3_contrib.TQC, "Hopper-v4", 3000, {}),
]


def acting_body(model: BaseAlgorithm) -> tuple[str, PopulationBody]:
    """The spiking network that acts, with its name in the policy."""
    for name, module in model.policy.named_modules():
        if isinstance(module, PopulationBody) and "target" not in name:
            return name, module
    raise ValueError(f"{type(model.policy).__name__} has no spiking network that acts")


def plant(model: BaseAlgorithm, rng: np.random.Generator) -> tuple[str, str]:
    """Put a fault into a model; which, where and how bad is drawn. Returns (fault, layer)."""
    name, body = acting_body(model)
    kind = str(rng.choice(list(_PLANTS)))
    where = _PLANTS[kind](model, name, body, rng)
    return kind, where


def _layer(body: PopulationBody, rng: np.random.Generator) -> int:
    return int(rng.integers(len(body.mlp.linears)))


def _bias(body: PopulationBody, rng: np.random.Generator, sign: int) -> int:
    """Move the biases of nearly all neurons of a layer up or down by 2 to 50."""
    layer = _layer(body, rng)
    linear: Any = body.mlp.linears[layer]
    neurons = linear.out_features
    hit = rng.permutation(neurons)[: math.ceil(neurons * rng.uniform(0.96, 1.0))]
    # 3: what all other inputs of a fresh layer can do against it
    amount = 3.0 + math.exp(rng.uniform(math.log(2.0), math.log(50.0)))
    with torch.no_grad():
        linear.bias[torch.as_tensor(hit)] += sign * amount
    return layer


def _dead(_m: Any, name: str, body: PopulationBody, rng: np.random.Generator) -> str:
    return f"{name}.mlp.neurons.{_bias(body, rng, -1)}"


def _saturated(_m: Any, name: str, body: PopulationBody, rng: np.random.Generator) -> str:
    return f"{name}.mlp.neurons.{_bias(body, rng, 1)}"


def _threshold(_m: Any, name: str, body: PopulationBody, rng: np.random.Generator) -> str:
    layer = _layer(body, rng)
    neuron: Any = body.mlp.neurons[layer]
    value = math.exp(rng.uniform(math.log(8.0), math.log(500.0)))
    neuron.config = dataclasses.replace(neuron.config, v_threshold=value)
    return f"{name}.mlp.neurons.{layer}"


def _surrogate(_m: Any, name: str, body: PopulationBody, rng: np.random.Generator) -> str:
    layer = _layer(body, rng)
    neuron: Any = body.mlp.neurons[layer]
    narrow = rng.random() < 0.5
    width = 10 ** (rng.uniform(-6, -4) if narrow else rng.uniform(3.5, 6))
    neuron.spike_fn = Surrogate(neuron.config.surrogate, width)
    return f"{name}.mlp.neurons.{layer}"


def _encoder(_m: Any, name: str, body: PopulationBody, rng: np.random.Generator) -> str:
    encoder = body.encoder
    with torch.no_grad():
        if rng.random() < 0.5:  # beside the data
            encoder.mean.add_(float(rng.choice([-1, 1]) * rng.uniform(8, 50)))
        else:  # too narrow to meet them
            encoder.std.fill_(10 ** rng.uniform(-5, -2.5))
    return f"{name}.encoder"


def _readout(model: BaseAlgorithm, _n: str, _b: PopulationBody, rng: np.random.Generator) -> str:
    policy: Any = model.policy
    # The first: targets stand behind.
    where, readout = next(
        (name, module)
        for name, module in policy.named_modules()
        if isinstance(module, PopulationReadout | ValueReadout)
    )
    scale = 10 ** rng.uniform(-12, -5)
    weights: list[torch.Tensor] = [readout.weight] if isinstance(readout, PopulationReadout) else []
    if isinstance(readout, ValueReadout):
        weights = [readout.level.weight, readout.difference.weight]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(scale)
    return str(where)


def _nan(_m: Any, name: str, body: PopulationBody, rng: np.random.Generator) -> str:
    layer = _layer(body, rng)
    linear: Any = body.mlp.linears[layer]
    row, column = rng.integers(linear.out_features), rng.integers(linear.in_features)
    with torch.no_grad():
        linear.weight[int(row), int(column)] = float(rng.choice([math.nan, math.inf]))
    return f"{name}.mlp.linears.{layer}"


_PLANTS: dict[str, Callable[[Any, str, PopulationBody, np.random.Generator], str]] = {
    "dead_layer": _dead,
    "saturated_layer": _saturated,
    "high_threshold": _threshold,
    "vanishing_surrogate": _surrogate,
    "encoder_range": _encoder,
    "deaf_readout": _readout,
    "nan": _nan,
}


class Extremes(SpikeMonitorCallback):
    """The monitor, which also keeps how far a run has come towards each limit."""

    def __init__(self) -> None:
        super().__init__()
        self.worst = {"dead": 0.0, "saturated": 0.0, "flow": 1.0, "missed": 0.0, "response": 1.0}

    def _judge(self, activity: NetworkActivity) -> None:
        super()._judge(activity)
        worst = self.worst
        for layer in activity.layers:
            if layer.driven:
                worst["dead"] = max(worst["dead"], layer.dead)
                worst["saturated"] = max(worst["saturated"], layer.saturated)
            if layer.flow is not None:
                worst["flow"] = min(worst["flow"], layer.flow)
        for encoder in activity.encoders:
            if encoder.learned:
                worst["missed"] = max(worst["missed"], float(encoder.missed.mean()))
        for readout in activity.readouts:
            if readout.driven:
                worst["response"] = min(worst["response"], float(readout.response.min()))


def train_watched(model: BaseAlgorithm, steps: int) -> Extremes:
    """Train with the monitor, which then holds what it warned of."""
    monitor = Extremes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikeFaultWarning)
        try:
            model.learn(steps, callback=monitor)
        except ValueError as error:  # a policy with NaN refuses to act, after the warning
            if "NaN" not in str(error):
                raise
    return monitor


def trial(seed: int) -> tuple[str, tuple[str, str], set[tuple[str, str]]]:
    """Plant a fault and train: the algorithm, what was planted, what was named."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(TARGETS)))
    algorithm, env, steps = TARGETS[name]
    model = algorithm("SpikingPopPolicy", env, seed=seed)
    planted = plant(model, rng)
    return name, planted, train_watched(model, steps).warned


def main() -> None:
    """Run the trials and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="100:110", help="of planted faults, FIRST:END")
    parser.add_argument("--healthy", type=int, default=len(SOUND), help="sound runs, at most 10")
    parser.add_argument("--healthy-seed", type=int, default=100, help="of the first sound run")
    args = parser.parse_args()
    first, end = map(int, args.seeds.split(":"))
    table = Table("seed", "algorithm", "planted", "in", "named")
    right = 0
    for seed in range(first, end):
        name, planted, named = trial(seed)
        right += named == {planted}
        shown = "exactly" if named == {planted} else str(sorted(named))
        table.add_row(str(seed), name, planted[0], planted[1], shown)
    alarms = 0
    for index, (algorithm, env, steps, settings) in enumerate(SOUND[: args.healthy]):
        model = algorithm("SpikingPopPolicy", env, seed=args.healthy_seed + index, **settings)
        monitor = train_watched(model, steps)
        alarms += bool(monitor.warned)
        shown = str(sorted(monitor.warned)) if monitor.warned else "no warning"
        shown += "; worst " + ", ".join(f"{k} {v:.2g}" for k, v in monitor.worst.items())
        table.add_row(
            str(args.healthy_seed + index), algorithm.__name__, "nothing", f"{env}, {steps}", shown
        )
    console = Console()
    console.print(table)
    console.print(f"{right} of {end - first} planted faults named exactly; {alarms} false alarms")


if __name__ == "__main__":
    main()
