"""The command line of this package; `python -m d3rlpy_spiking --help` shows it.

Reading the arguments needs neither torch nor d3rlpy; the commands import them.
"""

import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from d3rlpy_spiking.cli.arguments import Arguments, parse
from d3rlpy_spiking.cli.errors import USER_ERRORS, RankEndedError, UsageError, one_line, say_error
from d3rlpy_spiking.cli.launch import first_here, launch_number, on_sigterm
from d3rlpy_spiking.cli.quiet import quiet_import, quiet_logs


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        The exit code: 0, 1 where the doctor has found a fault or a shipped policy failed, 2 after
        an error of the user's, which is printed in one line, 130 when interrupted; that of another
        process of the run where this one ends because of it.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        return command(argv)
    finally:
        on_sigterm(before)


def command(argv: Sequence[str] | None = None) -> int:
    """As `main`, for a process that ends with it.

    After a failure on several ranks SIGTERM stays ignored, so that torchrun, which ends all ranks
    once one has, cannot take this one's message and exit code.
    """
    try:
        args = parse(argv)
        args.device = _device(args)
    except UsageError as error:
        say_error(error, first_here())
        return 2
    try:
        return _run(args)
    except RankEndedError as error:
        if str(error):
            print(f"error: {one_line(error)}", file=sys.stderr)
        return error.code
    except USER_ERRORS as error:
        if args.traceback:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; train goes on from its last checkpoint with --resume", file=sys.stderr)
        return 130


def _device(args: Arguments) -> str:
    """The device of this process: with torchrun, each has a CUDA device of its own.

    Raises:
        UsageError: if there is no such device, or the command is for one process; on every rank.
    """
    ranks = launch_number("LOCAL_WORLD_SIZE", 1)
    if launch_number("WORLD_SIZE", 1) > 1 and args.command != "train":
        raise UsageError(f"{args.command} runs in one process: start it without torchrun")
    name: str = args.device
    if not name.startswith("cuda"):
        return name
    import torch

    if ranks > 1 and name != "cuda":
        raise UsageError(
            f"--device {name} would be the device of {ranks} processes; pass --device cuda, which "
            "gives each its own"
        )
    count = torch.cuda.device_count()
    number = int(name.removeprefix("cuda").removeprefix(":") or 0)
    if max(number, ranks - 1) >= count:
        raise UsageError(
            f"--device {name}{f' in {ranks} processes' if ranks > 1 else ''}: there are {count} "
            f"CUDA devices here; use {'fewer processes or ' if count and ranks > 1 else ''}cpu"
        )
    return f"cuda:{launch_number('LOCAL_RANK', number) if ranks > 1 else number}"


def _run(args: Arguments) -> int:
    with quiet_import():
        from d3rlpy_spiking.cli.doctor import doctor
        from d3rlpy_spiking.cli.evaluate import evaluate
        from d3rlpy_spiking.cli.fold import fold
        from d3rlpy_spiking.cli.selftest import pack, selftest
        from d3rlpy_spiking.cli.train import train
        from d3rlpy_spiking.report.make import report

    commands: dict[str, Callable[[Arguments], int | None]] = {
        "train": train,
        "evaluate": evaluate,
        "fold": fold,
        "doctor": doctor,
        "report": report,
        "selftest": selftest,
        "pack": pack,
    }
    with quiet_logs(), warnings.catch_warnings():
        # Published results are from these versions of the environments.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        return commands[args.command](args) or 0
