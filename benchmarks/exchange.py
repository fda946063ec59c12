"""What an exchange between ranks costs, and what follows for more of them.

    torchrun --nproc-per-node 2 -m benchmarks.exchange --record RUN

Measures the sum of float32 messages over the ranks: a latency a (s) and a bandwidth b (bytes/s) are
fitted to t = 2 (N - 1) a + 2 (N - 1) / N V / b, a ring's cost for V bytes on N ranks. Then a run's
time is put together from the record of one process (RUN/distributed.json):

    wall(N) = S e / N + U / N (g + c(N)),    c(N) = m 2 (N - 1) a + 2 (N - 1) / N V / b

S environment steps of e s, U updates of g s in one process, m messages and V bytes an update. Each
rank keeps its batch, so N ranks make U / N updates (with --split U updates at g / N). It leaves out
waiting for the slowest rank, and supposes a core, or a GPU, for each rank. `--latency` and
`--bandwidth` put other links in place of the measured ones.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from policies.distributed import is_main, process_group, world_size
from policies.distributed.group import sum_
from policies.energy.gps_up import RunRecord

SIZES = [1, 1_000, 100_000, 500_000, 1_000_000, 4_000_000]


def measure(elements: int, repeats: int = 40) -> float:
    """Median seconds of one sum over the ranks."""
    x = torch.zeros(elements)
    for _ in range(5):
        sum_(x)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        sum_(x)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def fit(times: dict[int, float], ranks: int) -> tuple[float, float]:
    """Latency, from the smallest message, and bandwidth, from the largest."""
    small, large = min(times), max(times)
    latency = times[small] / (2 * (ranks - 1))
    moved = 2 * (ranks - 1) / ranks * 4 * (large - small)
    return latency, moved / (times[large] - times[small])


def cost(ranks: int, messages: float, size: float, latency: float, bandwidth: float) -> float:
    """Seconds that an update's exchanges take on a ring."""
    return messages * 2 * (ranks - 1) * latency + 2 * (ranks - 1) / ranks * size / bandwidth


def main() -> None:
    """Print the measured times, and the model's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--record", type=Path, help="a run's folder, of one process")
    add("--updates", type=int, default=10_000, help="U of that run")
    add("--messages", type=float, default=3.5, help="m; TD3 with a normalizer, a rollout included")
    add("--parameters", type=int, default=250_000, help="moved in an update, mean; V = 4 times it")
    add("--latency", type=float, help="a in s, in place of the measured one")
    add("--bandwidth", type=float, help="b in bytes/s, in place of the measured one")
    args = parser.parse_args()
    with process_group():
        times = {size: measure(size) for size in SIZES}
        if not is_main() or world_size() == 1:
            return
        for size, seconds in times.items():
            print(f"{4 * size:>10} bytes on {world_size()} ranks: {1e6 * seconds:8.0f} us")
        latency, bandwidth = fit(times, world_size())
    latency, bandwidth = args.latency or latency, args.bandwidth or bandwidth
    print(f"latency {1e6 * latency:.0f} us, bandwidth {bandwidth / 1e9:.2f} GB/s")
    if args.record is None:
        return
    one = RunRecord.load(args.record / "distributed.json")
    step, update = one.parts["environment"] / one.steps, one.parts["gradient"] / args.updates
    print(f"environment step {1e3 * step:.3f} ms, update {1e3 * update:.2f} ms\n")
    print("| ranks | exchange an update, ms | wall, s | Speedup |\n|---|---|---|---|")
    alone = one.steps * step + args.updates * update
    for ranks in (1, 2, 4, 8, 16, 32):
        exchange = cost(ranks, args.messages, 4 * args.parameters, latency, bandwidth)
        wall = (one.steps * step + args.updates * (update + exchange)) / ranks
        print(f"| {ranks} | {1e3 * exchange:.2f} | {wall:.1f} | {alone / wall:.2f} |")


if __name__ == "__main__":
    main()
