"""Errors that whoever typed a command or wrote a file can put right."""

import sys
import time
from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """The message names what is wrong and what to do; it is shown without a traceback."""


# torchrun ends the other processes of its machine within seconds of the first one's exit.
WAIT_SECONDS = 10.0

# What whoever typed the command can put right; anything else is a fault and keeps its traceback.
USER_ERRORS = (UsageError, ValueError, TypeError, OSError, ImportError)


class RankEndedError(Exception):
    """Another process of the run has failed, so this one ends.

    Args:
        code: exit code.
        message: what to print; empty where the other process says all.
    """

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def say_error(error: BaseException, first: bool = True) -> None:
    """Print an error that every process of a machine has, in the first of them.

    The others wait: torchrun would end the first one, before it has printed, as soon as they exit.
    """
    if first:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    else:
        time.sleep(WAIT_SECONDS)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known names, and which of them may have been meant."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}Known: {', '.join(names) or 'none'}"
