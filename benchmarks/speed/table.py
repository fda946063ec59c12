"""Figures with their goals, and the Markdown that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio.

    Attributes:
        limit: the bound.
        at_least: whether the ratio may not be lower; False: not higher.
    """

    limit: float
    at_least: bool = True

    def met(self, ratio: float) -> bool:
        """Whether a ratio keeps the bound."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        """The bound in words."""
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}"


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        row: whose it is.
        column: at which size.
        value: in the section's unit; None where `text` stands in its place.
        ratio: to the section's reference; None for the reference itself and where there is none.
        goal: of the ratio.
        text: why there is no figure.
    """

    row: str
    column: str
    value: float | None = None
    ratio: float | None = None
    goal: Goal | None = None
    text: str = ""

    def show(self, unit: str) -> str:
        """The cell as it stands in the table."""
        if self.value is None:
            return self.text
        shown = f"{_number(self.value)} {unit}"
        if self.ratio is None:
            return shown
        return f"{shown}, **{_number(self.ratio)}**{self.verdict()}"

    def verdict(self) -> str:
        """The goal and whether it is met; nothing without goal."""
        if self.goal is None or self.ratio is None:
            return ""
        return f" ({self.goal}: {'met' if self.goal.met(self.ratio) else 'not met'})"


@dataclass
class Section:
    """A table: rows of networks, columns of sizes, times and ratios in its cells.

    Attributes:
        title: its heading.
        ratio: what the bold figures are, in words.
        direction: "speed": reference / value, how many times faster; "time": value / reference.
        unit: of the values.
        notes: shown below.
    """

    title: str
    ratio: str
    direction: Literal["speed", "time"] = "speed"
    unit: str = "ms"
    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        row: str,
        column: str,
        value: ArrayLike,
        reference: ArrayLike | None = None,
        goal: Goal | None = None,
    ) -> None:
        """Put in a figure by rounds, [rounds] or one number, and the reference's where it has one.

        Shown are the median, and the median of the rounds' ratios: a round is short, so whatever
        else the machine does slows both sides of its ratio.
        """
        values, ratio = np.asarray(value, np.float64), None
        if reference is not None:
            ratios = np.asarray(reference, np.float64) / values
            ratio = float(np.median(ratios if self.direction == "speed" else 1.0 / ratios))
        self.cells.append(Cell(row, column, float(np.median(values)), ratio, goal))

    def skip(self, row: str, column: str, why: str) -> None:
        """Put in a reason in place of a figure."""
        self.cells.append(Cell(row, column, text=why))

    def markdown(self) -> str:
        """The whole section."""
        rows = list(dict.fromkeys(cell.row for cell in self.cells))
        columns = list(dict.fromkeys(cell.column for cell in self.cells))
        found = {(cell.row, cell.column): cell.show(self.unit) for cell in self.cells}
        body = [[row, *(found.get((row, column), "") for column in columns)] for row in rows]
        parts = [f"### {self.title}"]
        if self.ratio:
            parts.append(f"Bold: {self.ratio}.")
        if rows:
            parts.append(markdown_table(["", *columns], body))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts)


def goals_markdown(sections: Sequence[Section]) -> str:
    """Every figure that has a goal, in one table."""
    rows = [
        [
            section.title,
            f"{cell.row}, {cell.column}",
            _number(cell.ratio),
            str(cell.goal),
            "yes" if cell.goal.met(cell.ratio) else "no",
        ]
        for section in sections
        for cell in section.cells
        if cell.goal is not None and cell.ratio is not None
    ]
    if not rows:
        return ""
    return "### Goals\n\n" + markdown_table(["table", "row", "measured", "goal", "met"], rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    """Three digits, without exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
