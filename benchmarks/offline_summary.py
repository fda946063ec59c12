"""Markdown tables of what benchmarks.offline_runs has written, one for each recipe.

    python -m benchmarks.offline_summary --out runs/offline [--checkpoint last]
    python -m benchmarks.offline_summary --out runs/offline --asked runs/asking --ask 3459

A cell holds the mean over seeds of D4RL's score (of the return where D4RL has no reference), its
95 % bootstrap interval over seeds, and their number. The last columns are the mean over datasets
and its ratio to the dense network's, over the datasets that both have; its interval resamples the
seeds of both as benchmarks.results.summary does, and is left out where one of them has a single
seed. With --asked, datasets that benchmarks.offline_asking has a folder of count with what the last
checkpoints did when they were asked for the return --ask, and with nothing else. With three seeds
intervals are too narrow: see policies.report.statistics.
"""

import argparse
import dataclasses
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.commits import commits_of
from benchmarks.offline_networks import Recipe
from benchmarks.results.summary import Estimate, average, estimate, quotient
from d3rlpy_spiking.cli.runs import read_json
from policies.report.statistics import summarize

# Values of each network on each dataset: table[network][dataset].
Table = dict[str, dict[str, list[float]]]
BASE = "dt"


@dataclass
class Found:
    """Results of one recipe below a folder.

    Attributes:
        recipe: what its runs share; a context is part of a dataset's name.
        table: values of each network on each dataset.
        parameters: numbers of them that each network has, by dataset and context.
        seeds: those that are done, for each dataset.
        commits: of all.
        networks: what each network was made of.
    """

    recipe: dict[str, Any]
    table: Table = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    parameters: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    seeds: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    commits: set[str] = field(default_factory=set)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, result: dict[str, Any], checkpoint: str) -> None:
        """Add what a run's file holds.

        Raises:
            ValueError: if its network has the name of one that was made otherwise.
        """
        settings, found = result["settings"], result[checkpoint]
        network = settings["network"]
        made = {name: settings.get(name) for name in ("config", "fields", "ptbn")}
        before = self.networks.setdefault(network, made)
        if made != before:
            raise ValueError(
                f"{network} must be one network in all runs, got {made} with seed "
                f"{settings['seed']} and {before} before; remove the runs of one of them"
            )
        dataset = f"{Path(settings['dataset']).stem}, context {settings['context']}"
        self.seeds[dataset].add(settings["seed"])
        self.commits.update(commits_of(result))
        if "parameters" in result:
            self.parameters[network].add(result["parameters"])
        value = found["mean"] if found["score"] is None else found["score"]
        self.table[network][dataset].append(value)

    @property
    def title(self) -> str:
        """The recipe in a line."""
        return ", ".join(f"{key} {value}" for key, value in self.recipe.items())

    def notes(self) -> str:
        """A line for each dataset, and the commits."""
        lines = [
            f"- {name}: seeds {', '.join(map(str, sorted(seeds)))}"
            for name, seeds in sorted(self.seeds.items())
        ]
        return "\n".join([*lines, f"- commit {', '.join(sorted(self.commits))}"])

    def text(self) -> str:
        """Recipe, table and notes."""
        return f"{self.title}\n\n{markdown(self.table, self.parameters)}\n\n{self.notes()}"


class Asked(NamedTuple):
    """Results of benchmarks.offline_asking, in place of those of the runs.

    Attributes:
        out: its folder.
        ask: the return that was asked for.
    """

    out: Path
    ask: float

    def replace(self, result: dict[str, Any]) -> dict[str, Any] | None:
        """A run's result with what it did when it was asked; None if it was not.

        A dataset without a folder keeps its results.
        """
        settings = result["settings"]
        folder = self.out / Path(settings["dataset"]).stem
        if not folder.is_dir():
            return result
        run = f"{settings['network']}_c{settings['context']}_{settings['seed']}"
        path = folder / f"{run}_{self.ask!r}.json"
        return {**result, "last": read_json(path)} if path.exists() else None


def read(out: Path, checkpoint: str, asked: Asked | None = None) -> list[Found]:
    """The runs that are done below a folder, by recipe.

    Args:
        out: the folder.
        checkpoint: "last" or "best".
        asked: takes the place of the results "last".

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a network's name stands for two.
    """
    found: dict[str, Found] = {}
    for path in sorted(out.glob("*/*.json")):
        result = read_json(path)
        if asked is not None:
            result = asked.replace(result)
        if result is None:
            continue
        names = [one.name for one in dataclasses.fields(Recipe) if one.name != "context"]
        recipe = {name: result["settings"][name] for name in names}
        found.setdefault(json.dumps(recipe), Found(recipe)).add(result, checkpoint)
    if not found:
        raise FileNotFoundError(f"no run below {out} is done; start benchmarks.offline_runs")
    return list(found.values())


def cell(values: list[float]) -> str:
    """Mean, interval and number of some values."""
    if not values:
        return "-"
    found = summarize(values)
    if found.low is None or found.high is None:
        return f"{found.mean:.3g} (1 seed)"
    return f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}] ({len(values)})"


def ratio(ours: dict[str, list[float]], base: dict[str, list[float]]) -> str:
    """The mean over shared datasets divided by the base's, its interval, and the seeds of both."""
    shared = [name for name in ours if name in base]
    # A ratio to nothing says nothing; so does one to what may be nothing.
    if not shared or min(min(base[name]) for name in shared) <= 0.0:
        return "-"
    rng = np.random.default_rng(0)
    above, below = (
        average([estimate(np.array(side[name]), rng) for name in shared]) for side in (ours, base)
    )
    seeds = " / ".join(_range({len(side[name]) for name in shared}) for side in (ours, base))
    return f"{_shown(quotient(above, below))} ({seeds} seeds)"


def _shown(found: Estimate) -> str:
    if found.interval is None:
        return f"{found.value:.2f}"
    low, high = found.interval
    return f"{found.value:.2f} [{low:.2f}, {high:.2f}]"


def _range(numbers: set[int]) -> str:
    return " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))


def _mean(values: dict[str, list[float]], names: list[str]) -> float:
    return float(np.mean([np.mean(values[name]) for name in names]))


def markdown(table: Table, parameters: dict[str, set[int]]) -> str:
    """The table.

    Args:
        table: values of each network on each dataset.
        parameters: numbers of them; a network need not be in it.
    """
    datasets = sorted({name for values in table.values() for name in values})
    base = table.get(BASE, {})
    rows = [["network", "parameters", *datasets, "mean over datasets", f"ratio to {BASE}"]]
    rows.append(["---"] * len(rows[0]))
    for network, values in table.items():
        size = _range(parameters[network]) if network in parameters else "-"
        cells = [cell(values.get(name, [])) for name in datasets]
        whole = all(name in values for name in datasets)
        mean = f"{_mean(values, datasets):.1f}" if whole else "-"
        against = "1" if network == BASE else ratio(values, base)
        rows.append([network, size, *cells, mean, against])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    parser.add_argument("--checkpoint", choices=["last", "best"], default="last")
    parser.add_argument("--asked", type=Path, help="--out of benchmarks.offline_asking")
    parser.add_argument("--ask", type=float, help="return that was asked for there")
    args = parser.parse_args()
    if (args.asked is None) != (args.ask is None) or (args.asked and args.checkpoint != "last"):
        parser.error("--asked and --ask go together, and with the last checkpoint")
    try:
        asked = None if args.asked is None else Asked(args.asked, args.ask)
        found = read(args.out, args.checkpoint, asked)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print("\n\n".join(one.text() for one in found))


if __name__ == "__main__":
    main()
