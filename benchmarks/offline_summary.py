"""A Markdown table of what benchmarks.offline_runs has written.

    python -m benchmarks.offline_summary --out runs/offline [--checkpoint last]

A cell holds the mean over seeds of D4RL's score (of the return where D4RL has no reference), its
95 % bootstrap interval over seeds, and their number. The last columns are the mean over datasets
and its ratio to the dense network's, over the datasets that both have; its interval resamples the
seeds of both. With three seeds intervals are too narrow: see policies.report.statistics.
"""

import argparse
import dataclasses
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.offline_networks import Recipe
from policies.report.statistics import LEVEL, RESAMPLES, summarize

# Values of each network on each dataset: table[network][dataset].
Table = dict[str, dict[str, list[float]]]
BASE = "dt"


@dataclass
class Found:
    """Results below a folder.

    Attributes:
        table: values of each network on each dataset.
        recipes: what its runs share, for each dataset.
        seeds: those that are done, for each dataset.
        commits: of all.
    """

    table: Table = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    commits: set[str] = field(default_factory=set)

    def add(self, path: Path, checkpoint: str) -> None:
        """Add a run's file.

        Raises:
            ValueError: if its recipe is not that of the others on its dataset.
        """
        result = json.loads(path.read_text(encoding="utf-8"))
        settings, found = result["settings"], result[checkpoint]
        recipe = {f.name: settings[f.name] for f in dataclasses.fields(Recipe)}
        dataset = f"{Path(settings['dataset']).stem}, context {settings['context']}"
        if self.recipes.setdefault(dataset, recipe) != recipe:
            raise ValueError(
                f"{path} was made with {recipe}, others on that dataset with "
                f"{self.recipes[dataset]}: they cannot be compared; keep them in separate folders"
            )
        self.seeds[dataset].add(settings["seed"])
        self.commits.add(result["commit"])
        value = found["mean"] if found["score"] is None else found["score"]
        self.table[settings["network"]][dataset].append(value)

    def notes(self) -> str:
        """A line for each dataset, and the commits."""
        lines = [
            f"- {name}: seeds {', '.join(map(str, sorted(self.seeds[name])))}; "
            + ", ".join(f"{key} {value}" for key, value in recipe.items() if key != "context")
            for name, recipe in sorted(self.recipes.items())
        ]
        return "\n".join([*lines, f"- commit {', '.join(sorted(self.commits))}"])


def read(out: Path, checkpoint: str) -> Found:
    """The runs that are done below a folder.

    Args:
        out: the folder.
        checkpoint: "last" or "best".

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if runs on one dataset have different recipes.
    """
    found = Found()
    for path in sorted(out.glob("*/*.json")):
        found.add(path, checkpoint)
    if not found.table:
        raise FileNotFoundError(f"no run below {out} is done; start benchmarks.offline_runs")
    return found


def cell(values: list[float]) -> str:
    """Mean, interval and number of some values."""
    if not values:
        return "-"
    found = summarize(values)
    if found.low is None or found.high is None:
        return f"{found.mean:.3g} (1 seed)"
    return f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}] ({len(values)})"


def ratio(ours: dict[str, list[float]], base: dict[str, list[float]]) -> str:
    """The mean over shared datasets divided by the base's, with its interval."""
    shared = [name for name in ours if name in base]
    # A ratio to nothing says nothing; so does one to what may be nothing.
    if not shared or min(_mean(base, [name]) for name in shared) <= 0.0:
        return "-"
    rng = np.random.default_rng(0)
    above, below = (
        sum(_resampled(side[name], rng) for name in shared) / len(shared) for side in (ours, base)
    )
    mean = _mean(ours, shared) / _mean(base, shared)
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(above / below, [tail, 1.0 - tail]).tolist()
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _resampled(values: list[float], rng: np.random.Generator) -> NDArray[np.float64]:
    numbers = np.asarray(values)
    means: NDArray[np.float64] = numbers[
        rng.integers(0, len(numbers), (RESAMPLES, len(numbers)))
    ].mean(axis=1)
    return means


def _mean(values: dict[str, list[float]], names: list[str]) -> float:
    return float(np.mean([np.mean(values[name]) for name in names]))


def markdown(table: Table) -> str:
    """The table."""
    datasets = sorted({name for values in table.values() for name in values})
    base = table.get(BASE, {})
    rows = [["network", *datasets, "mean over datasets", f"ratio to {BASE}"]]
    rows.append(["---"] * len(rows[0]))
    for network, values in table.items():
        cells = [cell(values.get(name, [])) for name in datasets]
        whole = all(name in values for name in datasets)
        mean = f"{_mean(values, datasets):.1f}" if whole else "-"
        against = "1" if network == BASE else ratio(values, base)
        rows.append([network, *cells, mean, against])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    parser.add_argument("--checkpoint", choices=["last", "best"], default="last")
    args = parser.parse_args()
    found = read(args.out, args.checkpoint)
    print(f"{markdown(found.table)}\n\n{found.notes()}")


if __name__ == "__main__":
    main()
