"""Markdown: tables, numbers as people read them, and a part of a file between two marks."""

from collections.abc import Sequence
from pathlib import Path

NOTHING = "-"


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [list(head), ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def whole(value: float | None) -> str:
    """A return: 10,857."""
    # Adding 0.0 turns -0.0 into 0.0.
    return NOTHING if value is None else f"{round(value) + 0.0:,.0f}"


def part(value: float | None) -> str:
    """A ratio: 0.973."""
    return NOTHING if value is None else f"{value:.3f}"


def between(ends: tuple[float, float] | None, *, ratio: bool = False) -> str:
    """An interval: 9,100 to 9,900."""
    show = part if ratio else whole
    return NOTHING if ends is None else f"{show(ends[0])} to {show(ends[1])}"


def marks(name: str) -> tuple[str, str]:
    """The lines between which the tables of some runs go."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def put(document: str, text: str, path: Path, name: str) -> str:
    """A document with a text between its marks, whatever was there before.

    Raises:
        ValueError: if the marks are not there once each, in their order.
    """
    first, last = marks(name)
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end) or document.count(first) + document.count(last) != 2:
        raise ValueError(
            f"{path} must hold {first} and, below it, {last}, once each: the tables go between them"
        )
    return f"{before}{first}\n\n{text}\n\n{last}{after}"
