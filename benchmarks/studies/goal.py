"""Return against counted energy: points, the goal's verdict, a table and a picture."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.energy import number, table
from benchmarks.offline_summary import ratio
from benchmarks.studies.text import spread
from policies.files import write_atomically
from policies.report.plots import check_matplotlib

# Share of the full-size dense return to keep, and of the smallest keeping dense actor's energy.
KEEP, SHARE = 0.95, 0.22
FULL = "dense-256"
# How products of real numbers are charged, in spiking and dense alike -> key of the energy.
CHARGES = {
    "all products": "energy_nj_all_products",
    "zeros skipped": "energy_nj_zeros_skipped",
    "exponentials and membranes too": "energy_nj_nothing_left_out",
}
_COLOURS = {True: "#0072b2", False: "#d55e00"}  # Okabe and Ito's


@dataclass(frozen=True)
class Point:
    """An actor on the curve.

    Attributes:
        name: of the actor.
        spiking: whether it spikes.
        returns: mean return of each seed's last policy.
        seeds: which.
        energies: nJ a decision, mean over seeds, by charge.
    """

    name: str
    spiking: bool
    returns: tuple[float, ...]
    seeds: tuple[int, ...]
    energies: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean return over seeds."""
        return float(np.mean(self.returns))


def points(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Point]:
    """Points of results by actor."""
    return [
        Point(
            name,
            not found[0]["settings"]["dense"],
            tuple(one["mean"] for one in found),
            tuple(one["settings"]["seed"] for one in found),
            {
                charge: float(np.mean([one["operations"][key] for one in found]))
                for charge, key in CHARGES.items()
            },
        )
        for name, found in results.items()
    ]


@dataclass(frozen=True)
class Verdict:
    """Whether the goal is met in one way of charging.

    Attributes:
        base: the smallest dense actor that keeps the return; None if none does.
        limit: nJ a decision that a spiking actor may cost.
        best: the cheapest spiking actor that keeps the return; None if none does.
    """

    base: Point | None
    limit: float | None
    best: Point | None
    charge: str

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        if self.limit is None or self.best is None:
            return False
        return self.best.energies[self.charge] <= self.limit

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        if self.base is None or self.limit is None:
            return f"{self.charge}: no dense actor keeps {KEEP:.0%}"
        cost = self.base.energies[self.charge]
        start = (
            f"{self.charge}: the smallest dense actor with {KEEP:.0%} of the return is "
            f"{self.base.name} at {cost:.2f} nJ, {SHARE:.0%} of which are {self.limit:.2f} nJ; "
        )
        if self.best is None:
            return f"{start}no spiking actor keeps {KEEP:.0%}: not met"
        own = self.best.energies[self.charge]
        word = "met" if self.met else "not met"
        return f"{start}{self.best.name} costs {own:.2f} nJ, {own / cost:.0%}: {word}"


def full_return(found: Sequence[Point]) -> float:
    """The mean return that ratios refer to.

    Raises:
        ValueError: if the full-size dense actor is not there, or its return is not positive.
    """
    full = next((point for point in found if point.name == FULL), None)
    if full is None:
        raise ValueError(f"ratios need {FULL}, which no training has made yet")
    if full.mean <= 0.0:
        raise ValueError(f"{FULL} has the return {full.mean:.1f}: a ratio to it says nothing")
    return full.mean


def verdict(found: Sequence[Point], charge: str, missing: Sequence[str] = ()) -> Verdict:
    """Check the goal in one way of charging; means over seeds decide.

    Args:
        found: actors that have results.
        charge: one of CHARGES.
        missing: names of actors whose trainings are still to come.

    Raises:
        ValueError: as `full_return`, if actors are missing, or have different seeds.
    """
    least = KEEP * full_return(found)
    if missing:  # one of them may be the smallest that keeps the return
        raise ValueError(f"no training is done of {', '.join(missing)}")
    if len({tuple(sorted(point.seeds)) for point in found}) > 1:
        raise ValueError(f"actors have different seeds, {_seeds(found)}")
    keeping = sorted(
        (point for point in found if point.mean >= least), key=lambda p: p.energies[charge]
    )
    base = next((point for point in keeping if not point.spiking), None)
    best = next((point for point in keeping if point.spiking), None)
    limit = None if base is None else SHARE * base.energies[charge]
    return Verdict(base, limit, best, charge)


def _seeds(found: Sequence[Point]) -> str:
    return ", ".join(f"{point.name}: {' '.join(map(str, sorted(point.seeds)))}" for point in found)


def markdown(found: Sequence[Point], missing: Sequence[str] = ()) -> str:
    """A row a point, then the verdicts, or why there are none; arguments as of `verdict`."""
    base = None
    try:
        full_return(found)
        base = {"": list(next(p for p in found if p.name == FULL).returns)}
        closing = [f"{verdict(found, charge, missing).text}." for charge in CHARGES]
    except ValueError as error:
        closing = [f"No verdict: {error}."]
    rows = [
        (
            point.name,
            spread(point.returns),
            "-" if base is None else _ratio(point, base),
            *(number(point.energies[charge], 2) for charge in CHARGES),
        )
        for point in sorted(found, key=lambda p: -p.energies["all products"])
    ]
    heads = (f"nJ a decision, {charge}" for charge in CHARGES)
    shown = table(("actor", "return", f"ratio to {FULL}", *heads), rows)
    return "\n\n".join([shown, *closing])


def _ratio(point: Point, base: dict[str, list[float]]) -> str:
    return "1" if point.name == FULL else ratio({"": list(point.returns)}, base)


def draw(found: Sequence[Point], env: str, path: Path, missing: Sequence[str] = ()) -> None:
    """Draw the curve as PNG: ratio of returns against nJ a decision, seeds as small marks.

    The limit is drawn where there is a verdict.

    Raises:
        ValueError: as `full_return`.
        ImportError: without matplotlib.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    full, charge = full_return(found), "all products"
    try:
        limit = verdict(found, charge, missing).limit
    except ValueError:  # actors or seeds are still missing
        limit = None
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for kind, mark in ((True, "o"), (False, "s")):
        mine = sorted((p for p in found if p.spiking is kind), key=lambda p: p.energies[charge])
        if not mine:
            continue
        x = [point.energies[charge] for point in mine]
        label = "spiking" if kind else "dense"
        colour = _COLOURS[kind]
        axes.plot(x, [p.mean / full for p in mine], f"{mark}-", color=colour, label=label)
        for point in mine:
            energy = point.energies[charge]
            seeds = [value / full for value in point.returns]
            axes.plot([energy] * len(seeds), seeds, ".", color=colour, alpha=0.4)
            axes.annotate(
                point.name, (energy, point.mean / full), (4, 4), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
    axes.axhline(KEEP, color="#57606a", linewidth=0.8, linestyle="--")
    if limit is not None:
        axes.axvline(limit, color="#57606a", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("counted energy of a decision, nJ (45 nm, float32; all products)")
    axes.set_ylabel(f"return / that of {FULL}")
    axes.set_title(env)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})

    def write(name: str) -> None:
        Path(name).write_bytes(file.getvalue())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(str(path), write)
