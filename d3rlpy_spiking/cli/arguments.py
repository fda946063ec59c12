"""Arguments of the commands."""

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.launch import first_here
from d3rlpy_spiking.cli.names import ALGORITHMS

Arguments = argparse.Namespace

TRAINED = Path(__file__).resolve().parents[1] / "trained"

_DESCRIPTION = """\
Spiking policies for d3rlpy: train from a YAML file, evaluate, report, fold, examine, self-test.

  python -m d3rlpy_spiking train --config dsformer_small --dataset hopper.npz
  python -m d3rlpy_spiking evaluate --model runs/dsformer_small_0/model.d3 \\
      --env Hopper-v4 --target-return 3600
  python -m d3rlpy_spiking report runs/dsformer_small_0/model.d3 \\
      --env Hopper-v4 --target-return 3600
  python -m d3rlpy_spiking fold --model runs/dsformer_small_0/model.d3 --output folded.d3
  python -m d3rlpy_spiking doctor runs/dsformer_small_0/model.d3 --dataset hopper.npz
  python -m d3rlpy_spiking selftest
"""

_FILE = f"""\
the YAML file:
  algorithm: one of {", ".join(ALGORITHMS[:4])},
             {", ".join(ALGORITHMS[4:7])},
             or d3rlpy's dense {", ".join(ALGORITHMS[7:])}
  train:     n_steps, n_steps_per_epoch (1000), save_interval (1, in epochs),
             target_return and eval_episodes (10) for --eval-env
  config:    fields of the algorithm's config; factories and scalers as
             {{type: vector, params: {{hidden_units: [128]}}}}
  maze:      arguments of d3rlpy_spiking.maze.maze_dataset, for --dataset maze

In several processes, each with batches of batch_size of its own, on cuda each on its own device:

  torchrun --nproc-per-node 2 -m d3rlpy_spiking train --config dsformer_small ...

The run's folder is OUTPUT/<name of the file>_<seed>: metrics as CSV and for TensorBoard,
checkpoints model_<steps>.d3, and at the end results.json and model.d3.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")

    def print_help(self, file: Any = None) -> None:
        if first_here():
            super().print_help(file)


def _integer(text: str, low: int) -> int:
    if not re.fullmatch(r"\d+", text) or not low <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"must be an integer from {low} on, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    return _integer(text, 1)


def _seed(text: str) -> int:
    return _integer(text, 0)


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:<number>, got {text!r}")
    return text


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", type=_device, default="cpu", help="cpu, cuda or cuda:1; default cpu"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error arose"
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", required=True, help="YAML file, or the name of one in zoo_configs/d3rlpy")
    add("--dataset", required=True, help="file.npz, file.h5 of d3rlpy's dump, or maze")
    add("--seed", type=_seed, default=0, help="seed of weights and batches; default 0")
    add("--steps", type=_count, help="gradient steps in all, in place of the file's n_steps")
    add("--output", type=Path, default=Path("runs"), help="where runs' folders go; default runs")
    add("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="progress bar; default: on a terminal",
    )
    add("--eval-env", help="Gymnasium environment to evaluate in at every checkpoint")
    add("--target-return", type=float, help="return to ask for there")
    add(
        "--action-size",
        type=_count,
        help="number of discrete actions, where the dataset's file does not say it",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="file.d3; it can run code: trust its origin")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--env", help="Gymnasium environment to act in")
    where.add_argument("--dataset", choices=["maze"], help="maze: the maze's two test sets")
    add("--target-return", type=float, help="return to ask for; needed with --env")
    add("--episodes", type=_count, help="default 10; with --dataset maze walks a set, default 100")
    add("--seed", type=_seed, help="first episode's seed, default 0; or the mazes' seed")
    add("--config", help="YAML file with the maze's options; default: those of the model's run")
    add("--json", type=Path, metavar="FILE", help="write the results there too")


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.d3", help="it can run code: trust its origin")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--env", help="Gymnasium environment to act in")
    where.add_argument("--dataset", choices=["maze"], help="maze: mazes that it never trained on")
    add("--target-return", type=float, help="return to ask for; needed with --env")
    add("--dense", type=Path, metavar="DENSE.d3", help="trained dense model of the same size")
    add("--episodes", type=_count, default=20, help="episodes to play; default 20")
    add("--seed", type=_seed, default=0, help="first episode's seed; the others count on")
    add("--costs", default="45nm-float32", help="energy of an operation; default 45nm-float32")
    add("--out", type=Path, help="folder of the files; default: MODEL_report beside the model")


def _add_fold(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="file.d3; it can run code: trust its origin")
    add("--output", type=Path, required=True, help="where to write the folded model")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.d3", help="it can run code: trust its origin")
    add("--dataset", required=True, help="file.npz, file.h5 of d3rlpy's dump, or maze")
    add(
        "--samples",
        type=_count,
        default=64,
        help="contexts of a transformer, or steps for another algorithm, to look at; default 64",
    )


def _add_selftest(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="policies to play; default: all")
    add("--episodes", type=_count, help="at most so many of each; default: all on record")
    add("--list", action="store_true", help="show what is shipped, and end")


class _Pairs(argparse.Action):
    """name:value pairs; values are Python literals, or plain text."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> None:
        pairs = {}
        for text in values:
            name, colon, value = text.partition(":")
            if not colon or not name.isidentifier():
                raise argparse.ArgumentError(self, f"must be name:value, got {text!r}")
            try:
                pairs[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                pairs[name] = value
        setattr(namespace, self.dest, pairs)


def _add_pack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.d3", help="it can run code: trust its origin")
    add("--name", required=True, help="by which it will be asked for")
    add("--env", required=True, help="Gymnasium environment to act in")
    add(
        "--env-kwargs",
        nargs="+",
        action=_Pairs,
        default={},
        metavar="NAME:VALUE",
        help="arguments of the environment",
    )
    add("--target-return", type=float, required=True, help="return to ask for")
    # "command" is the parser's own.
    add("--command", dest="training", required=True, help="command that trained it")
    add("--training-seed", type=_seed, help="default: of the run that it lies in")
    add("--steps", type=_count, help="gradient steps; default: of the run that it lies in")
    add("--commit", help="of this library at the training; default: that of this folder")
    add("--episodes", type=_count, default=10, help="that selftest plays; default 10")
    add("--replays", type=_count, default=10, help="how often they are played here; default 10")
    add("--seed", type=_seed, default=1_000, help="first episode's; default 1000")
    add("--to", type=Path, default=TRAINED, help="folder of the manifest; default: the package's")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="python -m d3rlpy_spiking",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add, text, epilog in (
        ("train", _add_train, "train an algorithm on a dataset", _FILE),
        ("evaluate", _add_evaluate, "act in an environment, or walk mazes, with a model", None),
        ("report", _add_report, "write a page on a model beside its dense twin", None),
        ("fold", _add_fold, "fold a spiking transformer's norms into its weights", None),
        ("doctor", _add_doctor, "name what is wrong with a spiking network, and what helps", None),
        ("selftest", _add_selftest, "play the shipped policies, compare with the record", None),
        ("pack", _add_pack, "add a trained transformer to the shipped policies", None),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add(command)
        _add_common(command)
    return parser


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read the arguments.

    Raises:
        UsageError: if they are wrong.
        SystemExit: after `--help`.
    """
    return build_parser().parse_args(argv)
