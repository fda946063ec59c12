"""torch.compile of the whole actor against the kernels: time to first use, and time after it.

    python -m benchmarks.compile_time [--repeats 40]

Forward and backward at HalfCheetah's sizes, batch 100, one thread, calls taking turns; needs a C++
compiler.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from policies.actor import PopulationActor
from policies.config import PopulationActorConfig


def actor(**settings: Any) -> PopulationActor:
    """The published architecture with fresh weights."""
    torch.manual_seed(0)
    return PopulationActor(17, 6, PopulationActorConfig(normalize=False, **settings))


def step(network: Any, parameters: list[torch.nn.Parameter], obs: torch.Tensor, bf16: bool) -> None:
    """One forward and backward pass."""
    for parameter in parameters:
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        actions = network(obs)
    actions.float().square().mean().backward()


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    obs = torch.randn(100, 17)
    calls: dict[str, Callable[[], None]] = {}
    for name, settings, compiled, bf16 in (
        ("kernel auto, float32", {"matmul": "float32"}, False, False),
        ("torch.compile, float32", {"matmul": "float32", "kernel": "torch"}, True, False),
        ("kernel auto, bf16", {"matmul": "bf16"}, False, False),
        ("torch.compile, bf16 autocast", {"matmul": "float32", "kernel": "torch"}, True, True),
    ):
        plain = actor(**settings)
        network: Any = torch.compile(plain, dynamic=False) if compiled else plain
        parameters = list(plain.parameters())
        calls[name] = lambda n=network, p=parameters, b=bf16: step(n, p, obs, b)  # type: ignore[misc]  # bound at once
    first = {name: seconds(call) for name, call in calls.items()}
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(args.repeats)]
    print("way | first call, s | later calls, ms")
    for name in calls:
        later = statistics.median(times[name] for times in rounds)
        print(f"{name} | {first[name]:.1f} | {1e3 * later:.2f}")


if __name__ == "__main__":
    main()
