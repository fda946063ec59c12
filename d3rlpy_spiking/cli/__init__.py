"""The command line of this package; `python -m d3rlpy_spiking --help` shows it.

Reading the arguments needs neither torch nor d3rlpy; the commands import them.
"""

import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from d3rlpy_spiking.cli.arguments import Arguments, parse
from d3rlpy_spiking.cli.errors import UsageError, one_line
from d3rlpy_spiking.cli.quiet import quiet_import, quiet_logs

# What whoever typed the command can put right; anything else is a fault and keeps its traceback.
_USER_ERRORS = (UsageError, ValueError, TypeError, OSError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        The exit code: 0, 2 after an error of the user's, which is printed in one line, or 130 when
        interrupted.
    """
    args = None
    try:
        args = parse(argv)
        _run(args)
    except _USER_ERRORS as error:
        if args is not None and args.traceback:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; train goes on from its last checkpoint with --resume", file=sys.stderr)
        return 130
    return 0


def _check_device(name: str) -> None:
    if not name.startswith("cuda"):
        return
    import torch

    if int(name.removeprefix("cuda:")) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here; use cpu"
        )


def _run(args: Arguments) -> None:
    _check_device(args.device)
    with quiet_import():
        from d3rlpy_spiking.cli.evaluate import evaluate
        from d3rlpy_spiking.cli.fold import fold
        from d3rlpy_spiking.cli.train import train

    commands: dict[str, Callable[[Arguments], None]] = {
        "train": train,
        "evaluate": evaluate,
        "fold": fold,
    }
    with quiet_logs(), warnings.catch_warnings():
        # Published results are from these versions of the environments.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        commands[args.command](args)
