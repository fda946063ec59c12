"""What watching spikes costs: part of training time, from turns in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.monitoring d3rlpy [--rounds 15] [--width 128]
    OMP_NUM_THREADS=1 python -m benchmarks.monitoring sb3 [--rounds 10]

sb3: a model with the callback and one without train in turns, 2,000 steps each, logging to
TensorBoard; ten rounds hold ten looks and one picture, as 20,000 steps with the defaults do.
Printed are the median of the rounds' ratios and the ratio of all time.

d3rlpy: updates with a look after each and updates without take turns; medians. A look comes once in
`every` updates and what TensorBoard gets once an epoch, so the part of training time is

    (update with a look - update) / (every * update) + pictures / (updates an epoch * update)
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any


def seconds(call: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turns(rounds: int, *calls: Callable[[], Any]) -> list[float]:
    """Median seconds of each call, in turns after one round that is not counted."""
    times = [[seconds(call) for call in calls] for _ in range(rounds + 1)]
    return [statistics.median(column) for column in zip(*times[1:], strict=True)]


def _print(name: str, update: float, looked: float, every: int) -> float:
    part = (looked - update) / (every * update)
    print(
        f"{name}: update {1e3 * update:.1f} ms, with a look {1e3 * looked:.1f} ms; "
        f"every {every} updates: {part:.2%} of training time"
    )
    return part


def transformers(args: argparse.Namespace) -> None:
    """DSFormer, with each attention."""
    import d3rlpy
    from d3rlpy.models import VectorEncoderFactory

    from d3rlpy_spiking import DSFormerConfig
    from d3rlpy_spiking.monitor import SpikeTensorboardAdapterFactory

    for attention in args.attention:
        d3rlpy.seed(0)
        data = dataset(d3rlpy)
        config = DSFormerConfig(
            attention=attention,
            batch_size=args.batch,
            context_size=args.context,
            encoder_factory=VectorEncoderFactory([args.width], exclude_last_activation=True),
        )
        algo = config.create()
        algo.create_impl((11,), 3)
        every = config.monitor_every
        batches = [data.sample_trajectory_batch(args.batch, length=args.context) for _ in range(8)]

        step = partial(_update, algo, batches)
        plain, looked = turns(args.rounds, partial(step, 0), partial(step, 1))
        part = _print(f"DSFormer {attention}, width {args.width}", plain, looked, every)
        with tempfile.TemporaryDirectory() as folder:
            adapter = SpikeTensorboardAdapterFactory(folder).create(algo, "run", args.epoch)
            picture = seconds(partial(adapter.show, 1, args.epoch))
            algo.update(batches[0])
            rest = seconds(partial(adapter.show, 2, args.epoch))
            adapter.close()
        drawn = (picture / 10 + rest) / (args.epoch * plain)
        print(
            f"  TensorBoard: histograms {1e3 * rest:.0f} ms an epoch, a picture "
            f"{1e3 * picture:.0f} ms every 10 epochs of {args.epoch} updates: {drawn:.2%}; "
            f"together {part + drawn:.2%}"
        )


def _update(algo: Any, batches: list[Any], every: int) -> None:
    algo.spike_monitor.every = every
    algo.update(batches[int(algo.impl.progress.step) % len(batches)])


def qlearning(args: argparse.Namespace) -> None:
    """TD3+BC with a spiking actor."""
    import d3rlpy
    from d3rlpy.algos import TD3PlusBCConfig

    from d3rlpy_spiking import PopulationSpikingEncoderFactory
    from d3rlpy_spiking.monitor.qlearning import QLearningWatch

    d3rlpy.seed(0)
    data = dataset(d3rlpy)
    algo = TD3PlusBCConfig(
        batch_size=256, actor_encoder_factory=PopulationSpikingEncoderFactory()
    ).create()
    algo.create_impl((11,), 3)
    watch = QLearningWatch(algo, data, 256)
    batch = data.sample_transition_batch(256)

    def update() -> None:
        algo.update(batch)
        algo.update(batch)  # the actor learns in every second one

    pair, look = turns(args.rounds, update, lambda: watch.take(1))
    _print("TD3+BC, spiking actor", pair / 2, pair / 2 + look, 500)


def dataset(d3rlpy: Any, steps: int = 4_000) -> Any:
    """Episodes of random steps, of Hopper's shapes."""
    import numpy as np

    rng = np.random.default_rng(0)
    ends = (np.arange(1, steps + 1) % 200 == 0).astype(np.float32)
    return d3rlpy.dataset.MDPDataset(
        rng.normal(size=(steps, 11)).astype(np.float32),
        rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        rng.normal(size=steps).astype(np.float32),
        ends,
    )


# algorithm, environment, settings: usual ones, and the fastest steps there are
SB3_RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("TD3", "HalfCheetah-v4", {"policy_kwargs": {"net_arch": [256, 256]}, "batch_size": 256}),
    ("PPO", "HalfCheetah-v4", {}),
    ("PPO", "CartPole-v1", {}),
    ("A2C", "CartPole-v1", {}),
]


def offline(args: argparse.Namespace) -> None:
    """d3rlpy's side."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    transformers(args)
    qlearning(args)


def stable_baselines(args: argparse.Namespace) -> None:
    """Algorithms of Stable-Baselines3, trained in turns."""
    import stable_baselines3

    import sb3_spiking  # noqa: F401  # registers
    from sb3_spiking.callbacks import SpikeMonitorCallback

    for name, env, settings in SB3_RUNS:
        algorithm = getattr(stable_baselines3, name)
        with tempfile.TemporaryDirectory() as folder:
            trainings = []
            for callback in (None, SpikeMonitorCallback()):
                model = algorithm(
                    "SpikingPopPolicy", env, seed=0, tensorboard_log=folder, **dict(settings)
                )
                model.learn(2_000, callback=callback)
                again = partial(model.learn, 2_000, callback=callback, reset_num_timesteps=False)
                trainings.append(again)
            rounds = [[seconds(train) for train in trainings] for _ in range(args.rounds)]
        plain, watched = (sum(column) for column in zip(*rounds, strict=True))
        median = statistics.median(with_it / without for without, with_it in rounds)
        print(
            f"{name}, {env}: {plain / args.rounds:.2f} s without, {watched / args.rounds:.2f} s "
            f"with the monitor; all {watched / plain - 1:+.1%}, median {median - 1:+.1%}"
        )


def main() -> None:
    """Print the figures of a subcommand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("d3rlpy", help="spiking transformers, and a Q-learning algorithm")
    add = command.add_argument
    add("--attention", nargs="+", default=["pssa", "tssa"])
    add("--width", type=int, default=128)
    add("--batch", type=int, default=64)
    add("--context", type=int, default=20)
    add("--epoch", type=int, default=1_000, help="updates an epoch")
    add("--rounds", type=int, default=15)
    command.set_defaults(run=offline)
    command = commands.add_parser("sb3", help="algorithms of Stable-Baselines3")
    command.add_argument("--rounds", type=int, default=10)
    command.set_defaults(run=stable_baselines)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    args.run(args)


if __name__ == "__main__":
    main()
