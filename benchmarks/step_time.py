"""Time of predict and of a TD3 gradient step, spiking against dense, in one process.

    python -m benchmarks.step_time [--threads 1] [--repeats 30]

The two policies take turns; medians and their ratio are printed. Compare ratios, not times.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from stable_baselines3 import TD3

import sb3_spiking


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def trained(policy: str) -> TD3:
    """A model with a filled buffer that has trained a little."""
    return TD3(policy, "Pendulum-v1", learning_starts=280, buffer_size=1_000, seed=0).learn(300)


def main() -> None:
    """Print one row for each call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = [trained(policy) for policy in (sb3_spiking.SpikingPopPolicy, "MlpPolicy")]
    obs = np.zeros((1, 3), np.float32)
    calls: dict[str, Callable[[TD3], object]] = {
        "predict, 1 observation": lambda model: model.predict(obs),
        # Two steps: the actor learns in every second one.
        "gradient step, batch 256": lambda model: model.train(2, 256),
    }
    print(f"{args.threads} threads | spiking ms | dense ms | ratio")
    for name, call in calls.items():
        times = [
            [milliseconds(lambda model=model, call=call: call(model)) for model in models]  # type: ignore[misc]  # bound at once
            for _ in range(args.repeats)
        ]
        spiking, dense = np.median(times, axis=0) / (2 if "gradient" in name else 1)
        print(f"{name} | {spiking:.2f} | {dense:.2f} | {spiking / dense:.1f}")


if __name__ == "__main__":
    main()
