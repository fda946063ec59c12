"""Errors that whoever typed the command can put right."""


class UsageError(ValueError):
    """The message names what is wrong and what to do; it is shown without a traceback."""


# Anything else is a fault and keeps its traceback.
USER_ERRORS = (UsageError, OSError, ImportError)


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
