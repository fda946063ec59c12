"""Commands in several processes, which torchrun starts: one speaks, and all end together."""

import contextlib
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from d3rlpy_spiking.cli.errors import USER_ERRORS, RankEndedError
from d3rlpy_spiking.cli.launch import on_sigterm
from policies.distributed import (
    RankLostError,
    broadcast_object,
    gather_objects,
    is_main,
    process_group,
    rank,
    world_size,
)
from policies.distributed.group import active, launched

Value = TypeVar("Value")


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Around a command: with the processes that torchrun started, if it did. Rank 0 alone prints.

    After a failure SIGTERM stays ignored; whoever prints the message restores it.

    Raises:
        RankEndedError: if another process has ended.
    """
    if not (launched() or active()):
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    on_sigterm(_terminated)
    try:
        with process_group("gloo" if device == "cpu" else None), _one_voice():
            try:
                yield
            except BaseException:
                # It has a message and an exit code of its own: torchrun shall wait for them.
                on_sigterm(signal.SIG_IGN)
                raise
    except RankLostError as error:
        raise RankEndedError(
            1, f"{error}; to go on, run the command again with --resume"
        ) from error
    on_sigterm(before)


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Nothing on stdout, and no warnings, but from rank 0."""
    if is_main():
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _terminated(*_: Any) -> None:
    print(
        f"error: rank {rank()} of {world_size()} was told to end, by torchrun or the scheduler; if "
        "another rank has ended, its message is above; to go on from the last checkpoint, run the "
        "command again with --resume",
        file=sys.stderr,
        flush=True,
    )
    raise SystemExit(128 + signal.SIGTERM)


def together(action: Callable[[], Value]) -> Value:
    """What an action gives on every rank; if it fails on one, all end, and one of them says why.

    Args:
        action: exchanges nothing itself.

    Raises:
        RankEndedError: where another rank has failed, with the exit code that it has.
        Exception: the action's own, on the first rank that has failed.
    """
    if world_size() == 1:
        return action()
    value, error, code = None, None, 0
    try:
        value = action()
    except Exception as caught:
        error, code = caught, 2 if isinstance(caught, USER_ERRORS) else 1
    codes = gather_objects(code)
    first = next((other for other, code in enumerate(codes) if code), None)
    if first is not None:
        if error is not None and first == rank():
            raise error
        raise RankEndedError(codes[first]) from error
    return value  # type: ignore[return-value]  # there was no error


def on_main(action: Callable[[], Value]) -> Value:
    """What an action gives on rank 0, picklable, on every rank; only rank 0 runs it.

    Raises:
        RankEndedError: on other ranks, if it fails.
        Exception: the action's own, on rank 0.
    """
    value: Value = broadcast_object(together(lambda: action() if is_main() else None))
    return value


@contextlib.contextmanager
def main_file(path: Path) -> Iterator[Path]:
    """Rank 0's file at a path, on every rank: they may be on machines that do not share it."""
    if world_size() == 1:
        yield path
        return
    content = on_main(path.read_bytes)
    if is_main():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(content)
        yield copy
