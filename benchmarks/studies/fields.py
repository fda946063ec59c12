"""Width of the receptive fields and size of the populations, against return and spike uniformity.

Cells are named by the size P of a population and the width of its fields at the start, as a
multiple of their spacing, 2 x 3 / (P - 1). The default grid is a cross: all widths at P = 10, and
all sizes at the default width, 0.58.

Spike uniformity is how evenly a trained policy uses its encoder's neurons, on observations that it
visits itself. With r_i the mean rate of neuron i (spikes a spike step), i = 1..n, and
p_i = r_i / sum r:

    entropy     -sum p_i ln p_i / ln n: 1 if all fire alike, 0 if one fires alone
    gini        sum_ij |r_i - r_j| / (2 n^2 mean r): 0 if all fire alike, (n - 1) / n if one alone
    silent      share of neurons with r_i = 0
    rate        mean r
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.energy import table
from benchmarks.studies.measure import BATCH, measured, population
from benchmarks.studies.runs import Training
from benchmarks.studies.text import mean_of, spread
from policies.config import STD_PER_SPACING
from policies.population import PopulationEncoder

FIELD_RANGE = 3.0
WIDTHS = {"0.29": STD_PER_SPACING / 2.0, "0.58": STD_PER_SPACING, "1.0": 1.0, "1.5": 1.5}
SIZES = (3, 5, 10, 20)
DEFAULT_WIDTH, DEFAULT_SIZE = "0.58", 10


def spacing(size: int) -> float:
    """Distance of neighbouring fields, in standard deviations of an observation."""
    return 2.0 * FIELD_RANGE / (size - 1)


def cells(grid: str) -> list[tuple[int, str]]:
    """Population sizes and widths of a grid: "cross", 7 cells, or "full", 16."""
    if grid == "full":
        return [(size, width) for size in SIZES for width in WIDTHS]
    cross = [(DEFAULT_SIZE, width) for width in WIDTHS]
    return cross + [(size, DEFAULT_WIDTH) for size in SIZES if size != DEFAULT_SIZE]


def trainings(args: argparse.Namespace) -> list[Training]:
    """Seeds first: a stopped list has all cells of a seed."""
    return [
        Training(
            name=f"pop{size}_width{width}",
            env=args.env,
            steps=args.steps,
            seed=seed,
            config=args.config,
            policy_kwargs={
                "encoder_pop_size": size,
                "encoder_std": WIDTHS[width] * spacing(size),
                "encoder_range": FIELD_RANGE,
            },
        )
        for seed in args.seeds
        for size, width in cells(args.grid)
    ]


def uniformity(rates: NDArray[np.float64]) -> dict[str, float]:
    """How evenly neurons with these mean rates [n] are used; see above.

    Entropy and Gini of neurons that are all silent are NaN: there is nothing to share out.

    Raises:
        ValueError: if there are fewer than two neurons, or a rate is negative or not finite.
    """
    if rates.ndim != 1 or len(rates) < 2:
        raise ValueError(f"rates must be [n] of at least 2 neurons, got shape {rates.shape}")
    if not np.isfinite(rates).all() or (rates < 0.0).any():
        raise ValueError("rates must be finite and not negative")
    n, total = len(rates), float(rates.sum())
    found = {"silent": float((rates == 0.0).mean()), "rate": total / n}
    if total == 0.0:
        return {"entropy": float("nan"), "gini": float("nan"), **found}
    shares = rates[rates > 0.0] / total
    differences = np.abs(rates[:, None] - rates[None, :]).sum()
    return {
        "entropy": abs(float(-(shares * np.log(shares)).sum() / np.log(n))),  # no -0
        "gini": float(differences / (2.0 * n * total)),
        **found,
    }


@torch.no_grad()
def input_rates(encoder: PopulationEncoder, seen: Tensor) -> NDArray[np.float64]:
    """Mean rate of each encoder neuron [obs_dim * P] on what the encoder sees, [N, obs_dim]."""
    total = sum(
        encoder(part, deterministic=True).double().sum(dim=(0, 1)) for part in seen.split(BATCH)
    )
    assert isinstance(total, Tensor)
    return np.asarray(total / (len(seen) * encoder.spike_steps))


def measure(training: Training, run: Path) -> dict[str, Any]:
    """What is kept of a training."""
    kept, played = measured(training, run)
    actor = population(played.actor)
    with torch.no_grad():
        seen = played.obs if actor.normalizer is None else actor.normalizer(played.obs)
    encoder = actor.encoder
    width = float(encoder.std.detach().abs().mean()) / spacing(encoder.config.pop_size)
    found = {**uniformity(input_rates(encoder, seen)), "width_at_the_end": width}
    return {**kept, "fields": found}


def markdown(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row a cell: mean over seeds, and the interval of the return."""
    head = (
        "cell", "return", "mean of the evaluations", "entropy", "gini", "silent", "rate",
        "width at the end", "accumulates", "nJ",
    )  # fmt: skip
    rows = []
    for name, found in results.items():
        fields = {
            key: mean_of([one["fields"][key] for one in found], digits)
            for key, digits in {
                "entropy": 3, "gini": 3, "silent": 3, "rate": 3, "width_at_the_end": 2,
            }.items()
        }  # fmt: skip
        counts = [one["operations"] for one in found]
        rows.append(
            (
                name,
                spread([one["mean"] for one in found]),
                mean_of([float(np.mean(one["evaluations"]["means"])) for one in found], 1),
                *fields.values(),
                mean_of([one["accumulates"] for one in counts]),
                mean_of([one["energy_nj_all_products"] for one in counts], 1),
            )
        )
    return table(head, rows)
