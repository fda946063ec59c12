"""Counted operations and energy of a decision, beside the dense network's and published figures.

    python -m benchmarks.energy popsan [--weights popsan_halfcheetah.npz]
    python -m benchmarks.energy dsformer [--data hopper_medium_expert.npz] [--model FILE.d3]

popsan: the published HalfCheetah actor on the observations of its file and of an episode played
here. dsformer: DSFormer and d3rlpy's dense Decision Transformer at the paper's sizes, with the
counting rule printed. Everything printed is counted, unless it says "published". --output also
writes it as Markdown.
"""

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from policies.energy import OperationCount
from policies.files import write_atomically

SHARED = Path(__file__).resolve().parents[2] / "shared"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns of one width; all but the first are numbers."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def number(value: float, digits: int = 0) -> str:
    """With thousands separated."""
    return f"{value:,.{digits}f}"


def layer_table(count: OperationCount) -> str:
    """Counts of every layer that computes or fires, and their sums."""
    rows = [
        (
            name,
            number(layer.accumulates, 1),
            number(layer.multiply_accumulates, 1),
            number(layer.dense),
            "" if layer.firing_rate is None else f"{layer.firing_rate:.3f}",
        )
        for name, layer in count.layers.items()
        if layer.dense > 0 or layer.firing_rate is not None
    ]
    sums = (number(count.accumulates, 1), number(count.multiply_accumulates, 1))
    rows.append(("all", *sums, number(count.dense), ""))
    head = ("layer", "accumulates", "multiply-accumulates", "dense", "firing rate")
    return table(head, rows)


def existing(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}")
    return path


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.energy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(dest="what", required=True)
    popsan = what.add_parser("popsan", help="PopSAN's published actor")
    popsan.add_argument(
        "--weights", type=Path, default=SHARED / "reference" / "popsan_halfcheetah.npz"
    )
    popsan.add_argument("--env", default="HalfCheetah-v4")
    popsan.add_argument("--steps", type=positive, default=1_000, help="of the episode")
    popsan.add_argument("--seed", type=int, default=0, help="of the episode")
    dsformer = what.add_parser("dsformer", help="DSFormer and the dense Decision Transformer")
    dsformer.add_argument(
        "--data",
        type=existing,
        help="contexts, an archive as d3rlpy_spiking.datasets reads; without: Hopper's where they "
        "lie beside the repository, else, and for --model, normal numbers",
    )
    dsformer.add_argument("--model", type=existing, help="a trained DSFormer, .d3, instead")
    dsformer.add_argument("--width", type=positive, default=256)
    dsformer.add_argument("--batch", type=positive, default=32, help="contexts")
    dsformer.add_argument("--seed", type=int, default=0)
    for part in (popsan, dsformer):
        part.add_argument("--output", type=Path, help="a Markdown file")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, and write."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.what == "popsan":
        if not args.weights.is_file():
            parser.error(f"there is no file {str(args.weights)!r}; name PopSAN's with --weights")
        from benchmarks.energy_popsan import report
    else:
        if args.data is None and args.model is None:
            default = SHARED / "datasets" / "hopper_medium_expert.npz"
            args.data = default if default.is_file() else None
        with contextlib.redirect_stdout(io.StringIO()):  # Shimmy says that it is there
            from benchmarks.energy_dsformer import report
    if args.output is not None and not args.output.parent.is_dir():
        parser.error(f"--output: there is no folder {str(args.output.parent)!r}")
    shown = " ".join(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the environments and d3rlpy
        text = f"`python -m benchmarks.energy {shown}`\n\n{report(args)}\n"
    print(text)
    if args.output is not None:

        def write(name: str) -> None:
            Path(name).write_text(text, "utf-8")

        write_atomically(str(args.output), write)


if __name__ == "__main__":
    main()
