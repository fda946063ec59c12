"""Arguments of `python -m sb3_spiking.selftest`."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sb3_spiking.saved.arguments import Arguments, add_model, add_place, count, make_parser
from sb3_spiking.selftest.folders import OWN

_CHECK = """\
Play the trained policies that are shipped with this package and compare their mean returns with
those on record. Nothing is downloaded.

  python -m sb3_spiking.selftest
  python -m sb3_spiking.selftest pendulum_td3
  python -m sb3_spiking.selftest record pendulum_td3 --out pendulum.gif

Those of d3rlpy_spiking follow where d3rlpy is installed.
"""

_CHECK_END = """\
Exit code: 0 none failed, 1 one did, 2 wrong arguments.
Further commands: record, pack (see their --help).
"""

_PACK = """\
Add a trained model to the shipped ones: without its optimizers' moments and with its mean return,
which is measured here.

  python -m sb3_spiking.selftest pack logs/td3/Hopper-v4_1/Hopper-v4.zip --name hopper_td3 \\
      --command "python -m sb3_spiking.zoo train --algo td3 --env Hopper-v4 --seed 0"

The first replay of the episodes is of the weights as they are, the others of weights that are
changed in the seventh digit, as rounding on another machine would change their sums: what differs
between them is what the self-test lets pass. For bodies that fall now and then 200 plays (episodes
times replays) tell enough.
"""

_RECORD = """\
Play an episode of a policy into an animated GIF: of a shipped one, or of a model's file.

  python -m sb3_spiking.selftest record pendulum_td3 --out pendulum.gif
  python -m sb3_spiking.selftest record logs/td3/Hopper-v4_1/best_model.zip --out hopper.gif

A file in a folder of RL Zoo brings its environment, wrappers and statistics; others want --env.

Classic control draws with pygame (pip install "gymnasium[classic-control]"), MuJoCo with OpenGL:
without a display set MUJOCO_GL=egl, or MUJOCO_GL=osmesa where OSMesa is installed.
"""


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read the arguments; `action` says what to do.

    Raises:
        UsageError: if they are wrong.
        SystemExit: after `--help`.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    actions = {"pack": _packer, "record": _recorder}
    action = given[0] if given and given[0] in actions else None
    parser = _checker() if action is None else actions[action]()
    args = parser.parse_args(given if action is None else given[1:])
    args.action = action or "check"
    return args


def _checker() -> argparse.ArgumentParser:
    parser = make_parser("python -m sb3_spiking.selftest", _CHECK, _CHECK_END)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="policies to play; default: all")
    add("--episodes", type=count, help="at most so many of each; default: all on record")
    add("--list", action="store_true", help="show what is shipped, and end")
    add("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", text):
        raise argparse.ArgumentTypeError(f"must be of a-z, 0-9 and _, got {text!r}")
    return text


def _packer() -> argparse.ArgumentParser:
    parser = make_parser("python -m sb3_spiking.selftest pack", _PACK, "")
    add_model(parser)
    parser.set_defaults(seed=1_000, vec_normalize=None)
    add = parser.add_argument
    add("--name", type=_name, required=True, help="by which it will be asked for")
    add("--command", required=True, help="that trained it")
    add("--commit", help="of this library at the training; default: that of this folder")
    add("--episodes", type=count, default=20, help="that the self-test plays; default 20")
    add("--replays", type=count, default=10, help="how often they are played here; default 10")
    add("--actor-only", action="store_true", help="leave out critics; it only acts then")
    add("--to", type=Path, default=OWN, help="folder of the manifest; default: this package's")
    add("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def _recorder() -> argparse.ArgumentParser:
    parser = make_parser("python -m sb3_spiking.selftest record", _RECORD, "")
    add = parser.add_argument
    add("name", metavar="NAME|MODEL.zip", help="a shipped policy of this package, or any model")
    add_place(parser)
    add("--out", type=_gif, required=True, metavar="FILE.gif")
    add("--steps", type=count, default=200, help="at most so many; default 200")
    add("--every", type=count, default=2, help="steps a frame; default 2")
    add("--width", type=count, default=240, help="pixels; default 240")
    add("--traceback", action="store_true", help="show where in the code an error arose")
    return parser


def _gif(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".gif":
        raise argparse.ArgumentTypeError(
            f"must end in .gif, got {text!r}; for MP4 see `python -m rl_zoo3.record_video --help`"
        )
    return path
