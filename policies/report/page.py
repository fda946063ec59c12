"""A page as tables, pictures and sentences, for any renderer."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Tile:
    """A number that stands out."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Attributes:
        title: heading.
        columns: names of the columns.
        rows: texts, as many in each as there are columns.
        words: columns of words, set to the left as the first is; the others are numbers.
        note: a sentence below.

    Raises:
        ValueError: if a row has another length.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Check the rows."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.title}: a row must have {len(self.columns)} cells, got {list(row)}"
                )

    def is_left(self, column: int) -> bool:
        """Whether a column is set to the left."""
        return column == 0 or column in self.words


@dataclass(frozen=True)
class Series:
    """Values of one thing in a picture.

    Attributes:
        name: for the legend.
        values: as many as the panel has labels; None leaves a gap.
        role: which colour: 0 what the page is about, 1 what it is compared with, 2 and 3 further
            parts of these two.
        line: drawn across the panel at this value; None for none.
    """

    name: str
    values: tuple[float | None, ...]
    role: int = 0
    line: float | None = None


@dataclass(frozen=True)
class Panel:
    """A picture: horizontal bars, one group a label, or points over labels.

    Raises:
        ValueError: if a series has another number of values than there are labels.
    """

    title: str
    axis: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    kind: Literal["bars", "points"] = "bars"
    # whether labels alone do not tell the series apart
    legend: bool = True

    def __post_init__(self) -> None:
        """Check the series."""
        for series in self.series:
            if len(series.values) != len(self.labels):
                raise ValueError(
                    f"{self.title}: {series.name} must have {len(self.labels)} values, got "
                    f"{len(series.values)}"
                )


@dataclass(frozen=True)
class Section:
    """Sentences under a heading."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """All that is shown, in order: tiles, rows of pictures, tables, sentences."""

    title: str
    subtitle: str
    tiles: tuple[Tile, ...] = ()
    panels: tuple[tuple[Panel, ...], ...] = ()
    tables: tuple[Table, ...] = ()
    sections: tuple[Section, ...] = field(default=())
