"""Arguments that name a saved model and where it acts."""

import argparse
import ast
from pathlib import Path
from typing import Any, NoReturn

from sb3_spiking.saved.errors import UsageError

Arguments = argparse.Namespace


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


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


def integer(text: str, low: int) -> int:
    """An integer from `low` on, as argparse takes types."""
    if not text.isdecimal() or not low <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer from {low} on, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """An integer from 1 on."""
    return integer(text, 1)


def _seed(text: str) -> int:
    return integer(text, 0)


def make_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser that raises UsageError."""
    return _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a model and where it acts."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL.zip", help="spiking model; trust its origin"
    )
    add_place(parser)


def add_place(parser: argparse.ArgumentParser) -> None:
    """Arguments that say where a model acts, and what saved it."""
    add = parser.add_argument
    add("--env", help="Gymnasium environment; default: that of RL Zoo's folder")
    add("--algo", help="algorithm that saved the model; default: what its folder or file says")
    add("--seed", type=_seed, default=0, help="first episode's seed, the others count on")
    add("--vec-normalize", type=Path, metavar="FILE", help="VecNormalize's file of the model")
    add(
        "--env-kwargs",
        nargs="+",
        action=_Pairs,
        default={},
        metavar="NAME:VALUE",
        help="arguments of the environment",
    )
    add("--gym-packages", nargs="+", default=[], help="packages that register environments")
