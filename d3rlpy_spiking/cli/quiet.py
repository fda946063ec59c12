"""What d3rlpy says of itself is kept off the command's output."""

import contextlib
import io
import itertools
import logging
import sys
from collections.abc import Iterator
from importlib import import_module

from d3rlpy_spiking.cli.arguments import parse
from d3rlpy_spiking.cli.errors import UsageError, say_error
from d3rlpy_spiking.cli.launch import first_here


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Around the first import of d3rlpy: without Gym's notice and without Shimmy's line."""
    with contextlib.suppress(ImportError):
        import_module("gym_notices.notices").notices.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Around training: d3rlpy's log only where something fails; restored after."""
    import structlog

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextlib.contextmanager
def command_start(package: str) -> Iterator[None]:
    """Around the imports of the package's `__init__`, which `python -m package` runs first.

    Then, and only then, help and wrong arguments end the process before d3rlpy is imported, and the
    import is quiet.
    """
    if not _is_starting(package):
        yield
        return
    try:
        parse(sys.argv[1:])
    except UsageError as error:
        say_error(error, first_here())
        sys.exit(2)
    with quiet_import():
        yield


def _is_starting(package: str) -> bool:
    # Python writes "-m" in the place of the file's name while it looks for the module to run.
    return sys.argv[:1] == ["-m"] and ("-m", package) in itertools.pairwise(sys.orig_argv)
