"""`python -m sb3_spiking.selftest`."""

import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from gymnasium.error import DependencyNotInstalled

from policies.selftest import SkippedError, check_names, selftest, show_list
from policies.selftest.manifest import read_manifest
from sb3_spiking.saved.arguments import Arguments
from sb3_spiking.saved.errors import USER_ERRORS, UsageError, one_line
from sb3_spiking.selftest.arguments import parse
from sb3_spiking.selftest.folders import OTHER, OWN, all_folders, other_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        exit code: 0; 1 if a policy failed; 2 after an error of the user's; 130 when interrupted.
    """
    args = None
    try:
        args = parse(argv)
        with warnings.catch_warnings():
            # Published results are from these versions of the environments.
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            return _run(args)
    except (*USER_ERRORS, SkippedError, DependencyNotInstalled) as error:
        if args is not None and args.traceback:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(args: Arguments) -> int:
    if args.action == "pack":
        from sb3_spiking.selftest.pack import pack

        print(pack(args))
        return 0
    if args.action == "record":
        from sb3_spiking.selftest.record import record

        print(record(args))
        return 0
    return _check(args)


def _check(args: Arguments) -> int:
    try:
        check_names(args.names, all_folders())
    except ValueError as error:
        raise UsageError(str(error)) from error
    if args.list:
        show_list(all_folders())
        return 0
    from sb3_spiking.selftest.play import play

    passed = selftest(OWN, play, args.names, args.episodes, show_traceback=args.traceback)
    return 0 if _other(args) and passed else 1


def _other(args: Arguments) -> bool:
    """Whether the other adapter's policies pass, in a process of their own."""
    folder = other_folder()
    shipped = [] if folder is None else [s.name for s in read_manifest(folder)]
    names = [name for name in shipped if not args.names or name in args.names]
    if not names:
        return True
    if find_spec("d3rlpy") is None:
        print(f"{', '.join(names)}: skipped: pip install 'spiking-policies[d3rlpy]'")
        return True
    options = ["--traceback"] if args.traceback else []
    if args.episodes is not None:
        options += ["--episodes", str(args.episodes)]
    sys.stdout.flush()
    command = [sys.executable, "-m", OTHER, "selftest", *names, *options]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks are small
    sys.exit(main())
