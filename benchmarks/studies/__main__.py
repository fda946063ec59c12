"""Studies that the papers left open.

    python -m benchmarks.studies fields [--env Hopper-v4 --steps 100000] [--grid full]
    python -m benchmarks.studies arithmetic

Each is a list of trainings that goes on where it was stopped; --list says what is done, --table
prints what came of it. docs/studies.md defines the measures.
"""

import argparse
import os
import sys
from collections.abc import Sequence

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.studies import arithmetic, fields
from benchmarks.studies.lists import add_options, read, show, work_through

STUDIES = {"fields": fields, "arithmetic": arithmetic}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    studies = parser.add_subparsers(dest="study", required=True)
    one = studies.add_parser("fields", help="receptive fields")
    one.add_argument("--grid", choices=["cross", "full"], default="cross", help="7 or 16 cells")
    add_options(one, env="Pendulum-v1", steps=10_000, out="runs/studies/fields")
    two = studies.add_parser("arithmetic", help="matmul")
    add_options(two, env="Pendulum-v1", steps=20_000, out="runs/studies/arithmetic")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, list or print."""
    args = parse(arguments)
    study = STUDIES[args.study]
    trainings = study.trainings(args)
    if args.list:
        show(trainings, args.out)
        return
    if not args.table and not work_through(trainings, args, study.measure, "benchmarks.studies"):
        return
    print(study.markdown(read(trainings, args.out)))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
