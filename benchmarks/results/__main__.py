"""Results of the online runs: what is kept of them, their curves, their tables.

    python -m benchmarks.results collect runs/online
    python -m benchmarks.results figures
    python -m benchmarks.results table --write docs/results.md

`collect` reads the folder that benchmarks.online_learning writes and keeps a small file a run in
docs/data/online, hyperparameters included; the other two read nothing else, so that anyone can draw
and count again, and refuse to mix runs of one kind with different hyperparameters. `--name plain`
does the same for the runs of `--plain`, at 40,000 steps: docs/data/plain, plain.png, and
other marks in the document.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results.coverage import coverage
from benchmarks.results.markdown import put
from benchmarks.results.record import read_all
from benchmarks.results.runs import collect
from benchmarks.results.table import BUDGETS, VARIANT_BUDGET, tables
from policies.files import write_atomically

DATA, IMAGES = Path("docs/data"), Path("docs/images")
# Runs, and what they are made for.
NAMES = {"online": BUDGETS, "plain": (40_000,)}


def _figures(args: argparse.Namespace) -> None:
    from benchmarks.results.figures import write_figures  # matplotlib

    budget = args.steps or NAMES[args.name][0]
    records = read_all(args.data)
    for path in write_figures(records, args.images, budget, args.variants_env, args.name):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _table(args: argparse.Namespace) -> None:
    steps = args.steps or NAMES[args.name]
    text = tables(read_all(args.data), steps, args.variant_steps, args.name)
    if args.write is None:
        print(text)
        return
    document = put(args.write.read_text("utf-8"), text, args.write, args.name)
    write_atomically(str(args.write), lambda name: _fill(name, document))
    print(f"{args.write}: tables of {', '.join(f'{one:,}' for one in steps)} steps")


def _coverage(args: argparse.Namespace) -> None:
    for name, held in coverage(args.seeds, 4, args.trials, 2000).items():
        print(f"{name}: {100 * held:.1f} % of {args.trials:,}, {args.seeds} seeds each")


def _fill(name: str, document: str) -> None:
    Path(name).write_text(document, "utf-8", newline="\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, draw or count; 1 if a run could not be read."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="keep the small part of the runs")
    collecting.add_argument("runs", type=Path, help="a folder with KIND/ENV_seedSEED in it")
    drawing = commands.add_parser("figures", help="draw the curves")
    drawing.add_argument("--images", type=Path, default=IMAGES, help="folder of the PNGs")
    drawing.add_argument("--steps", type=_positive, help="of all but long runs")
    drawing.add_argument("--variants-env", help="whose variants; by default who has most of them")
    counting = commands.add_parser("table", help="print the tables")
    counting.add_argument("--steps", type=_positive, nargs="+")
    counting.add_argument("--variant-steps", type=_positive, default=VARIANT_BUDGET)
    counting.add_argument("--write", type=Path, help="a Markdown file with the two marks in it")
    holding = commands.add_parser("coverage", help="how often intervals of made-up runs hold")
    holding.add_argument("--trials", type=_positive, default=4000)
    holding.add_argument("--seeds", type=_positive, default=3, help="of each policy, 2 or more")
    for command in (collecting, drawing, counting):
        command.add_argument("--data", type=Path, help="folder of what is kept")
        command.add_argument("--name", choices=list(NAMES), default="online", help="which runs")
    args = parser.parse_args(arguments)
    if args.command == "coverage" and args.seeds < 2:
        holding.error(f"--seeds must be at least 2, got {args.seeds}: one has no interval")
    if args.command != "coverage" and args.data is None:
        args.data = DATA / args.name
    try:
        if args.command == "collect":
            return 1 if collect(args.runs, args.data) else 0
        {"figures": _figures, "table": _table, "coverage": _coverage}[args.command](args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
