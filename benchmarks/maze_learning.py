"""STRL on mazes beside a dense Decision Transformer: spike steps, thresholds, encoders.

    python -m benchmarks.maze_learning --out runs/maze

Every run has the same mazes, batches' seed, width, blocks, heads, context, optimizer, learning-rate
schedule and steps. `--encoders wavefront` gives spiking transformers the spiking planner and the
dense one its dense counterpart; `--encoders flat` gives both two dense layers on the flattened
observation. A run that has its file in --out is not repeated.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import d3rlpy
from d3rlpy.algos import DiscreteDecisionTransformerConfig
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
from d3rlpy.optimizers import GPTAdamWFactory
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from torch import Tensor, nn

from d3rlpy_spiking import STRLConfig
from d3rlpy_spiking.maze import (
    WavefrontEncoderFactory,
    accuracy,
    leak_check,
    maze_dataset,
    rollout_success,
)
from d3rlpy_spiking.operations import count_operations

CONTEXT, BATCH, HEADS, LAYERS = 10, 32, 4, 6


class Run(NamedTuple):
    """One row of the table."""

    algorithm: str
    encoder: str
    spike_steps: int = 4
    v_threshold: float = 0.5

    @property
    def name(self) -> str:
        """Name of the run's file."""
        if self.algorithm == "dt":
            return f"dt-{self.encoder}"
        return f"strl-{self.encoder}-T{self.spike_steps}-v{self.v_threshold}"


def make_runs(encoders: list[str]) -> list[Run]:
    """The dense run first, then spike steps, then thresholds."""
    runs = []
    for encoder in encoders:
        runs += [Run("dt", encoder), Run("strl", encoder)]
        if encoder == "wavefront":
            runs += [Run("strl", encoder, spike_steps=t) for t in (1, 2, 8)]
            runs += [Run("strl", encoder, v_threshold=v) for v in (0.25, 1.0)]
    return runs


@dataclasses.dataclass()
class FlatEncoderFactory(EncoderFactory):
    """Two dense layers on the flattened observation."""

    width: int = 64
    hidden: int = 256

    def create(self, observation_shape: Any) -> nn.Module:
        """The encoder of a maze."""
        channels, height, columns = observation_shape
        return FlatEncoder(channels * height * columns, self.hidden, self.width)

    @staticmethod
    def get_type() -> str:
        """The name in saved configs."""
        return "maze_benchmark_flat"


class FlatEncoder(nn.Module):
    """See FlatEncoderFactory."""

    def __init__(self, size: int, hidden: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Observations [B, C, H, W] -> [B, width]."""
        features: Tensor = self.layers(x.flatten(1))
        return features


register_encoder_factory(FlatEncoderFactory)


def make_algo(run: Run, args: argparse.Namespace) -> Any:
    """The algorithm of a run."""
    encoder: EncoderFactory = FlatEncoderFactory(args.width)
    if run.encoder == "wavefront":
        encoder = WavefrontEncoderFactory(feature_size=args.width, spiking=run.algorithm == "strl")
    tokens = BATCH * CONTEXT
    common: dict[str, Any] = {
        "batch_size": BATCH,
        "learning_rate": 1e-3,
        "context_size": CONTEXT,
        "max_timestep": 225,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attn_dropout": 0.0,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "encoder_factory": encoder,
        "optim_factory": GPTAdamWFactory(betas=(0.9, 0.95), weight_decay=0.1, clip_grad_norm=1.0),
        "warmup_tokens": tokens * args.steps // 20,
        "final_tokens": tokens * args.steps,
    }
    if run.algorithm == "dt":
        return DiscreteDecisionTransformerConfig(**common).create()
    return STRLConfig(**common, spike_steps=run.spike_steps, v_threshold=run.v_threshold).create()


def execute(run: Run, data: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one run."""
    d3rlpy.seed(args.seed)
    algo = make_algo(run, args)
    start = time.perf_counter()
    algo.fit(
        data.dataset,
        n_steps=args.steps,
        n_steps_per_epoch=args.steps,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
    )
    seconds = time.perf_counter() - start
    row: dict[str, Any] = run._asdict() | {"steps": args.steps, "seconds": seconds}
    row["parameters"] = sum(p.numel() for p in algo.impl.modules.transformer.parameters())
    for split in ("pairs", "mazes"):
        walks = getattr(data, split)
        row[split] = dataclasses.asdict(accuracy(algo, walks))
        row[f"{split}_rollouts"] = dataclasses.asdict(
            rollout_success(algo, walks, max_walks=args.walks)
        )
    row["leak"] = leak_check(algo, data.pairs)
    batch = data.dataset.sample_trajectory_batch(BATCH, length=CONTEXT)
    count = count_operations(algo, TorchTrajectoryMiniBatch.from_batch(batch, device="cpu:0"))
    row["accumulates"] = count.accumulates
    row["multiply_accumulates"] = count.multiply_accumulates
    planner = [c for name, c in count.layers.items() if "planner" in name]
    row["planner_operations"] = sum(c.accumulates + c.multiply_accumulates for c in planner)
    return row


def main() -> None:
    """Run what is missing; print one line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="+", default=["wavefront", "flat"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--maze-seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--walks", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("runs/maze"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = maze_dataset(seed=args.maze_seed)
    for run in make_runs(args.encoders):
        path = args.out / f"{run.name}-{args.steps}-{args.seed}.json"
        if not path.exists():
            path.write_text(json.dumps(execute(run, data, args), indent=1))
        print(run.name, path.read_text().replace("\n", ""), flush=True)


if __name__ == "__main__":
    main()
