"""Pictures of a page's panels, drawn by matplotlib without a display."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from policies.report.page import Page, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 11.0  # inches
# Room for a panel's title and axis, and for each of its bars, in inches.
_FRAME, _BAR, _LOWEST = 1.0, 0.24, 2.0
_POINTS_HEIGHT = 2.2
# Letters of a label in a row with one picture; a row with two has half of it, and so on.
_LABEL = 56


@dataclass(frozen=True)
class Style:
    """Colours of a picture.

    Attributes:
        paper: behind all; "none" lets the page show.
        ink: text and axes.
        faint: grid.
        roles: by Series.role; readable by those who see red and green alike.
    """

    paper: str
    ink: str
    faint: str
    roles: tuple[str, str, str, str]


LIGHT = Style("none", "#24292f", "#d0d7de", ("#0969da", "#8c959f", "#bc4c00", "#57606a"))
DARK = Style("none", "#e6edf3", "#3d444d", ("#58a6ff", "#8b949e", "#f0883e", "#c9d1d9"))
PRINTED = Style("#ffffff", LIGHT.ink, LIGHT.faint, LIGHT.roles)


def check_matplotlib() -> None:
    """Raise unless pictures can be drawn.

    Raises:
        ImportError: naming what to install.
    """
    if find_spec("matplotlib") is None:
        raise ImportError(
            "a report needs matplotlib for its pictures: pip install 'spiking-policies[report]'"
        )


def to_png(page: Page) -> bytes:
    """All panels on white, with the page's title above."""
    with _drawn(page, PRINTED, titled=True) as figure:
        return _written(figure, "png", dpi=150)


def to_svg(page: Page, style: Style) -> bytes:
    """All panels, drawn for a light or a dark page; letters are outlines, so no font is needed."""
    with _drawn(page, style, titled=False) as figure:
        return _written(figure, "svg", metadata={"Date": None})


def _written(figure: "Figure", kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, facecolor=figure.get_facecolor(), **options)
    return file.getvalue()


@contextmanager
def _drawn(page: Page, style: Style, *, titled: bool) -> Iterator["Figure"]:
    """A figure with the panels, closed afterwards; the user's settings are not followed."""
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A figure without pyplot belongs to nobody else: it goes when it is let go.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "text.color": style.ink,
                "axes.edgecolor": style.faint,
                "axes.labelcolor": style.ink,
                "xtick.color": style.ink,
                "ytick.color": style.ink,
                "font.size": 9.0,
                "svg.fonttype": "path",
                "svg.hashsalt": "report",
            }
        )
        heights = [max(_height(panel) for panel in row) for row in page.panels]
        top = 0.4 if titled else 0.0
        figure = Figure(
            figsize=(_WIDTH, max(sum(heights), _LOWEST) + top),
            layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
        )
        FigureCanvasAgg(figure)
        figure.set_facecolor(style.paper)
        if titled:
            figure.suptitle(page.title, fontsize=12.0, fontweight="bold")
        if page.panels:
            grid = figure.add_gridspec(len(page.panels), 1, height_ratios=heights)
            for i, row in enumerate(page.panels):
                places = grid[i].subgridspec(1, len(row))
                for j, panel in enumerate(row):
                    _draw(figure.add_subplot(places[j]), panel, style, _LABEL // len(row))
        try:
            yield figure
        finally:
            figure.clear()


def _height(panel: Panel) -> float:
    if panel.kind == "points":
        return _POINTS_HEIGHT
    return max(_FRAME + _BAR * len(panel.labels), _LOWEST)


def _draw(axes: "Axes", panel: Panel, style: Style, letters: int) -> None:
    axes.set_title(panel.title, fontsize=10.0, fontweight="bold", loc="left")
    axes.set_xlabel(panel.axis)
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if panel.kind == "bars":
        _bars(axes, panel, style, letters)
    else:
        _points(axes, panel, style)
    if panel.kind == "points" and panel.legend:
        axes.legend(fontsize=8.0, labelcolor=style.ink, framealpha=0.0)
    elif panel.legend and len(panel.series) > 1:
        # Below: it would hide bars.
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.42 / _inside(panel)),
            ncols=len(panel.series),
            columnspacing=1.0,
            handlelength=1.2,
            frameon=False,
            fontsize=8.0,
            labelcolor=style.ink,
        )


def _inside(panel: Panel) -> float:
    """Height of the drawing inside its frame, about, in inches."""
    return _height(panel) - _FRAME


def _bars(axes: "Axes", panel: Panel, style: Style, letters: int) -> None:
    from matplotlib.ticker import MaxNLocator

    # Series that share a label stand end to end; the number is their sum.
    ends = [0.0] * len(panel.labels)
    for series in panel.series:
        values = [value or 0.0 for value in series.values]
        colour = style.roles[series.role]
        axes.barh(range(len(values)), values, left=ends, color=colour, label=series.name)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    highest = max(ends)
    for place, end in enumerate(ends):
        axes.annotate(
            _short(end),
            (end, place),
            (3.0, 0.0),
            textcoords="offset points",
            va="center",
            fontsize=8.0,
        )
    labels = [_wrapped(label, letters) for label in panel.labels]
    axes.set_yticks(range(len(labels)), labels, fontsize=8.0)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(len(labels), 3) - 0.4, -0.6)
    # Room for the numbers behind the bars.
    axes.set_xlim(0.0, 1.18 * highest if highest > 0 else 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.grid(visible=True, color=style.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))


def _points(axes: "Axes", panel: Panel, style: Style) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(1, len(panel.labels) + 1)
    for series in panel.series:
        colour = style.roles[series.role]
        drawn = [
            (place, value)
            for place, value in zip(places, series.values, strict=True)
            if value is not None
        ]
        if series.line is not None:
            axes.axhline(series.line, color=colour, linewidth=1.0, linestyle="--")
        axes.scatter(
            [place for place, _ in drawn],
            [value for _, value in drawn],
            color=colour,
            s=18.0,
            label=series.name,
            zorder=3,
        )
    axes.yaxis.grid(visible=True, color=style.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _short(value: float) -> str:
    """1,234,567 as 1.23M."""
    for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{name}"
    return f"{value:.3g}"


def _wrapped(text: str, letters: int) -> str:
    """Words in lines; a long name of a module keeps its end, which tells it apart."""
    if " " in text:
        return textwrap.fill(text, max(letters, 12))
    return text if len(text) <= letters else f"...{text[3 - letters :]}"
