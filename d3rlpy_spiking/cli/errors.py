"""Errors that whoever typed a command or wrote a file can put right."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """The message names what is wrong and what to do; it is shown without a traceback."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known names, and which of them may have been meant."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}Known: {', '.join(names) or 'none'}"
