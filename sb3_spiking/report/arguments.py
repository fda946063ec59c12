"""Arguments of `python -m sb3_spiking.report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from policies.energy.constants import COSTS, DEFAULT_COSTS
from sb3_spiking.saved.arguments import Arguments, add_model, count, make_parser
from sb3_spiking.saved.errors import UsageError

_DESCRIPTION = """\
One page about a spiking model: return, latency, firing rates, operations and energy, beside the
dense network with the same hidden layers.

  python -m sb3_spiking.report model.zip --env HalfCheetah-v4 --dense dense.zip
  python -m sb3_spiking.report logs/td3/Pendulum-v1_1/Pendulum-v1.zip

A model in a run's folder of RL Zoo brings its environment, algorithm, wrappers and VecNormalize
statistics along. A model's file, VecNormalize's and args.yml and config.yml of RL Zoo's folder run
code when they are opened: pass only files and folders whose origin you trust.
"""

_EPILOG = """\
Without --dense the twin is the same algorithm's dense policy with the same net_arch and features
extractor, untrained: its return is not known, and zeros in it mean nothing, so that no zeros are
skipped in either network.

Written to --out: report.md, report.json, report.html (opens offline) and report.png.
"""


def build_parser() -> argparse.ArgumentParser:
    """The report's parser."""
    parser = make_parser("python -m sb3_spiking.report", _DESCRIPTION, _EPILOG)
    add_model(parser)
    add = parser.add_argument
    add("--episodes", type=count, default=20, help="episodes to play; default 20")
    add("--dense", type=Path, metavar="DENSE.zip", help="trained dense model of the same size")
    add("--dense-vec-normalize", type=Path, metavar="FILE", help="VecNormalize's file of --dense")
    add(
        "--costs",
        choices=list(COSTS),
        default=DEFAULT_COSTS.name,
        metavar="PRESET",
        help=f"energy of an operation, one of {', '.join(COSTS)}; default {DEFAULT_COSTS.name}",
    )
    add("--loihi", action="store_true", help="simulate energy on Loihi by SANA-FE's model")
    add("--out", type=Path, help="folder of the files; default: MODEL_report beside the model")
    add("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read the arguments.

    Raises:
        UsageError: if they are wrong.
        SystemExit: after `--help`.
    """
    args = build_parser().parse_args(argv)
    if args.dense_vec_normalize is not None and args.dense is None:
        raise UsageError("--dense-vec-normalize is for the model of --dense, which is missing")
    if args.out is None:
        args.out = args.model.with_name(f"{args.model.stem}_report")
    return args
