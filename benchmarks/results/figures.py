"""Curves of the online runs: white paper, colours that the colour-blind tell apart."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.hyperparameters import check_alike
from benchmarks.results.record import Record
from policies.files import write_atomically
from policies.report.plots import check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which is faint on white.
_COLOURS = {"dense": "#d55e00", "spiking": "#0072b2"}
_OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES: dict[str, "_Dashes"] = {"dense": "--"}
_INK, _FAINT, _DPI = "#24292f", "#d0d7de", 110
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_PANEL = (4.6, 3.0)  # inches
# More kinds than these are drawn without bands, which would hide each other.
_BANDS = 2

# A run that was stopped has its next evaluations a little later: of 300,000 steps it may end at
# 305,000. It went on if it came this much further.
_LONG = 1.1

# Colour and dashes.
_Dashes = Literal["-", "--", "-.", ":"]
_Look = tuple[str, _Dashes]


def write_figures(
    records: Sequence[Record],
    images: Path,
    budget: int,
    variants_env: str | None = None,
    name: str = "online",
) -> list[Path]:
    """Draw online.png up to a budget of steps, and what else there is.

    That is online_long.png, of the runs that went on from there, and online_variants.png, of one
    environment's variants as far as they went.

    Args:
        records: the runs.
        images: folder of the files.
        budget: in steps.
        variants_env: environment of the variants; by default the one with most variants.
        name: of the files, "online".

    Returns:
        The files.

    Raises:
        ValueError: if `variants_env` has no variants, a run has no evaluation within the budget, or
            runs of one environment and kind have different hyperparameters.
        ImportError: without matplotlib.
    """
    check_matplotlib()
    check_alike(records)
    images.mkdir(parents=True, exist_ok=True)
    pair = [one for one in records if one.kind in _COLOURS]
    variants = [one for one in records if one.kind not in _COLOURS]
    named = {one.env for one in variants}
    if variants_env is not None and variants_env not in named:
        raise ValueError(
            f"--variants-env must be one of {sorted(named)}, which have runs other than dense and "
            f"spiking, got {variants_env!r}"
        )
    written = []
    if pair:
        written.append(_write(images / f"{name}.png", [one.until(budget) for one in pair]))
    long = [one for one in pair if one.steps[-1] >= _LONG * budget]
    if long:
        written.append(_write(images / f"{name}_long.png", long))
    if variants:
        kinds = Counter(env for env, _ in sorted({(one.env, one.kind) for one in variants}))
        env = variants_env or kinds.most_common(1)[0][0]
        reached = max(int(one.steps[-1]) for one in variants if one.env == env)
        beside = [one for one in records if one.env == env and one.steps[0] <= reached]
        chosen = [one.until(min(reached, budget)) for one in beside]
        written.append(_write(images / f"{name}_variants.png", chosen))
    return written


def _write(path: Path, records: Sequence[Record]) -> Path:
    from PIL import Image  # comes with matplotlib

    with _drawn(records) as figure:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_DPI)
    # A palette makes a third of it; no metadata, so that the bytes stay the same longer.
    picture = Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    write_atomically(str(path), lambda name: picture.save(name, optimize=True))
    return path


@contextmanager
def _drawn(records: Sequence[Record]) -> Iterator["Figure"]:
    """A panel for each environment; the user's settings are not followed."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    envs = sorted({one.env for one in records})
    look = _look(_kinds(records))
    columns = min(len(envs), 2)
    lines = -(-len(envs) // columns)
    # A single panel carries the legend of many variants.
    size = (
        _PANEL[0] * (columns if columns > 1 else 1.5),
        _PANEL[1] * (lines if columns > 1 else 1.3) + 0.6,
    )
    ink: dict[Any, str] = dict.fromkeys(_INKED, _INK)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(ink | {"font.size": 9})
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, columns, squeeze=False)
        for place, panel in enumerate(axes.flat):
            if place < len(envs):
                there = [one for one in records if one.env == envs[place]]
                _panel(panel, envs[place], there, look)
            else:
                panel.set_axis_off()
        for panel in axes[:, 0]:
            panel.set_ylabel("mean return of an evaluation")
        for panel in axes[-1, :]:
            panel.set_xlabel("steps, thousands")
        _legend(figure, look)
        yield figure


def _kinds(records: Sequence[Record]) -> list[str]:
    """Dense, spiking, then variants."""
    names = sorted({one.kind for one in records})
    return sorted(names, key=lambda name: (name != "dense", name != "spiking"))


def _look(kinds: Sequence[str]) -> dict[str, _Look]:
    """Colour and dashes of each kind."""
    others = [kind for kind in kinds if kind not in _COLOURS]
    dashes: tuple[_Dashes, ...] = ("-", "-.", ":")
    pair: dict[str, _Look]
    pair = {kind: (_COLOURS[kind], _DASHES.get(kind, "-")) for kind in kinds if kind in _COLOURS}
    return pair | {
        kind: (_OTHERS[place % len(_OTHERS)], dashes[place // len(_OTHERS) % len(dashes)])
        for place, kind in enumerate(others)
    }


def _panel(panel: "Axes", env: str, records: Sequence[Record], look: dict[str, _Look]) -> None:
    counts = {}
    for kind in _kinds(records):
        colour, dashes = look[kind]
        runs = [one for one in records if one.kind == kind]
        counts[kind] = len(runs)
        for one in runs:
            panel.plot(one.steps / 1000, one.means, color=colour, linewidth=0.6, alpha=0.5)
        # Beyond the shortest run a mean would be of other seeds than before.
        steps = _shared(runs)
        means = np.stack([np.interp(steps, one.steps, one.means) for one in runs])
        panel.plot(steps / 1000, means.mean(axis=0), dashes, color=colour, linewidth=1.9)
        if len(look) > _BANDS:
            continue
        low, high = means.min(axis=0), means.max(axis=0)
        panel.fill_between(steps / 1000, low, high, color=colour, alpha=0.13, linewidth=0)
    panel.set_title(f"{env} ({_seeds(counts)})", fontsize=9)
    panel.grid(color=_FAINT, linewidth=0.5)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlim(left=0)
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.xaxis.set_major_formatter("{x:,.0f}")


def _shared(runs: Sequence[Record]) -> NDArray[np.int64]:
    """Steps of a run's evaluations that lie within all others; most are the same in all."""
    first = max(int(one.steps[0]) for one in runs)
    last = min(int(one.steps[-1]) for one in runs)
    steps = runs[0].steps
    return steps[(steps >= first) & (steps <= last)]


def _seeds(counts: dict[str, int]) -> str:
    if len(set(counts.values())) == 1:
        count = next(iter(counts.values()))
        return f"{count} seed{'s' if count > 1 else ''}" + (" each" if len(counts) > 1 else "")
    if len(counts) > _BANDS:
        return f"{min(counts.values())} to {max(counts.values())} seeds"
    return "seeds: " + ", ".join(f"{kind} {count}" for kind, count in counts.items())


def _legend(figure: "Figure", look: dict[str, _Look]) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=1.9, label=kind)
        for kind, (colour, dashes) in look.items()
    ]
    band = ", range of the seeds (band)"
    figure.legend(
        handles=lines,
        loc="outside upper center",
        ncols=min(len(lines), 4),
        frameon=False,
        title="mean over seeds (thick), each seed (thin)" + (band if len(look) <= _BANDS else ""),
        title_fontsize=9,
    )
