"""Arithmetic of spikes times weights, against return, gradient norm and counted energy.

A cell is the arithmetic of forward (`matmul`) and the operands of backward (`matmul_backward`).
Gradient norms are those just before each optimizer step, averaged over an episode, and of these the
median in each tenth of the steps in which it learns. Counted energy has two columns: all
operations at float32's costs; and accumulates at the costs of the arithmetic's own format, all else
at float32's. For "exact", weights are integers (int32), for "bf16" the nearest format with
published costs is float16.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.energy import table
from benchmarks.studies.measure import measured
from benchmarks.studies.runs import ALGO, Training
from benchmarks.studies.text import mean_of, spread
from policies.energy import COSTS, DEFAULT_COSTS, OperationCosts

# Name of the cell -> matmul, matmul_backward.
CELLS = {
    "float32": ("float32", "float32"),
    "exact": ("exact", "float32"),
    "exact_back-bf16": ("exact", "bf16"),
    "bf16_back-float32": ("bf16", "float32"),
    "bf16": ("bf16", "bf16"),
}
# Costs of an accumulate in each arithmetic.
FORMATS = {"float32": "45nm-float32", "exact": "45nm-int32", "bf16": "45nm-float16"}
PARTS = ("actor", "critic")
STRETCHES = 10


def trainings(args: argparse.Namespace) -> list[Training]:
    """Seeds first: a stopped list has all cells of a seed."""
    return [
        Training(
            name=name,
            env=args.env,
            steps=args.steps,
            seed=seed,
            config=args.config,
            policy_kwargs={"matmul": forward, "matmul_backward": backward},
        )
        for seed in args.seeds
        for name, (forward, backward) in CELLS.items()
    ]


def stretches(
    steps: NDArray[np.int64], values: NDArray[np.float64], first: int, last: int
) -> list[float]:
    """The median of values in each tenth of the steps after `first`; NaN where there are none."""
    found = []
    for k in range(STRETCHES):
        low, high = (first + n * (last - first) / STRETCHES for n in (k, k + 1))
        inside = values[(steps > low) & (steps <= high)]
        found.append(float(np.median(inside)) if len(inside) else float("nan"))
    return found


def gradient_norms(events: Path, first: int, last: int) -> dict[str, list[float]]:
    """Norms of the gradients of actor and critics, by tenths of the steps in which they learn.

    Args:
        events: folder of TensorBoard's files; a training that was stopped has several, and one that
            was stopped before its first checkpoint and began anew has them in several folders.
        first: steps before it learns.
        last: steps of the training.

    Raises:
        FileNotFoundError: if there are none.
    """
    # In the order of their numbers: TD3_2, then TD3_10.
    folders = sorted(
        {path.parent for path in events.rglob("events.out.tfevents.*")},
        key=lambda path: int(path.name.rpartition("_")[2]),
    )
    if not folders:
        raise FileNotFoundError(f"there are no TensorBoard files below {events}")
    found: dict[str, dict[int, float]] = {part: {} for part in PARTS}
    for folder in folders:
        reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        reader.Reload()
        for part, values in found.items():
            tag = f"train/{part}_grad_norm"
            if tag in reader.Tags()["scalars"]:
                for event in reader.Scalars(tag):
                    # What was trained again after a stop replaces all that was lost, whose
                    # episodes may have ended at other steps.
                    while values and next(reversed(values)) >= event.step:
                        values.popitem()
                    values[event.step] = event.value
    return {
        part: stretches(
            np.array(list(values), np.int64), np.array(list(values.values())), first, last
        )
        for part, values in found.items()
    }


def own_costs(matmul: str) -> OperationCosts:
    """float32's costs, with accumulates at those of an arithmetic's format."""
    own = COSTS[FORMATS[matmul]]
    return OperationCosts(
        f"{own.name}, float32 elsewhere",
        DEFAULT_COSTS.multiply_accumulate_pj,
        own.accumulate_pj,
        own.source,
    )


def measure(training: Training, run: Path) -> dict[str, Any]:
    """What is kept of a training."""
    kept, _ = measured(training, run)
    counts = kept["operations"]
    matmul = training.policy_kwargs["matmul"]
    own = own_costs(matmul).energy_nj(counts["accumulates"], counts["multiply_accumulates_all"])
    # RL Zoo's folder is FOLDER/td3/ENV_1, its events are beside td3.
    events = run.parents[1] / "events"
    assert run.parent.name == ALGO
    first = training.parameters()["learning_starts"]
    return {
        **kept,
        "energy_nj_own_format": own,
        "gradient_norms": gradient_norms(events, first, training.steps),
    }


def _numbers(rows: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """Rows as JSON has them: null is NaN."""
    return np.array(rows, np.float64)


def markdown(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row a cell, then the gradient norms by tenths."""
    head = (
        "matmul", "return", "mean of the evaluations", "accumulates", "nJ, float32's costs",
        "nJ, own format", "seconds",
    )  # fmt: skip
    rows = [
        (
            name,
            spread([one["mean"] for one in found]),
            mean_of([float(np.mean(one["evaluations"]["means"])) for one in found], 1),
            mean_of([one["operations"]["accumulates"] for one in found]),
            mean_of([one["operations"]["energy_nj_all_products"] for one in found], 1),
            mean_of([one["energy_nj_own_format"] for one in found], 1),
            mean_of([one["seconds"] for one in found]),
        )
        for name, found in results.items()
    ]
    norms = [
        (
            f"{name}, {part}",
            *(
                f"{value:.3g}"
                for value in np.mean(
                    _numbers([one["gradient_norms"][part] for one in found]), axis=0
                )
            ),
        )
        for part in PARTS
        for name, found in results.items()
    ]
    tenths = ("gradient norm by tenths", *(str(k + 1) for k in range(STRETCHES)))
    return f"{table(head, rows)}\n\n{table(tenths, norms)}"
