"""Speed against the peers: ratios from one run on this machine.

    python -m benchmarks [--only actor,td3] [--repeats 20] [--output docs/performance.md]

Rivals take turns call by call, each on `--threads` threads; medians. With --output the Markdown
also goes into that file, between two marks where it has them.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# In order; each is a module of benchmarks.speed with `run`.
GROUPS = ("actor", "td3", "predict", "rollout", "dsformer", "floor", "memory", "gpu")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def group_names(text: str) -> list[str]:
    """Names of groups from "actor,td3"."""
    names = text.split(",")
    for name in names:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(GROUPS)}")
    return names


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return int(text)


def put(document: str, results: str) -> str:
    """The document with the results between its marks; without marks, the results alone."""
    block = f"{BEGIN}\n\n{results}\n\n{END}"
    if BEGIN not in document or END not in document:
        return block + "\n"
    before, rest = document.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the groups and print their tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=group_names, default=list(GROUPS), help=",".join(GROUPS))
    parser.add_argument("--repeats", type=positive, default=20, help="rounds of turns")
    parser.add_argument("--threads", type=positive, default=1, help="of each side")
    parser.add_argument(
        "--malloc",
        choices=["keep", "system"],
        default="keep",
        help="keep: freed memory stays with the process, for all rivals; system: as glibc has it",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the command")
    parser.add_argument("--output", type=Path, help="a Markdown file")
    args = parser.parse_args(arguments)
    # Before torch and numpy are imported: their threads are counted then.
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    warnings.simplefilter("ignore")  # of the peers
    logging.disable(logging.INFO)
    from benchmarks.speed.allocator import keep_freed_memory
    from benchmarks.speed.harness import Options
    from benchmarks.speed.report import measure

    shown = "python -m benchmarks " + " ".join(sys.argv[1:] if arguments is None else arguments)
    kept = args.malloc == "keep" and keep_freed_memory()
    options = Options(args.repeats, args.quick, kept)
    results = measure(args.only, args.threads, shown.strip(), options)
    if args.output is not None:
        old = args.output.read_text("utf-8") if args.output.is_file() else ""
        args.output.write_text(put(old, results), "utf-8")


if __name__ == "__main__":
    main()
