"""`python -m sb3_spiking.report MODEL.zip --env ENV`."""

import sys
import traceback
import warnings
from collections.abc import Sequence

from sb3_spiking.report.arguments import parse
from sb3_spiking.saved.errors import USER_ERRORS, UsageError, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Write and print a report.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        The exit code: 0, 2 after an error of the user's, which is printed in one line, 130 when
        interrupted.
    """
    try:
        args = parse(argv)
    except UsageError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    saving = False
    try:
        from policies.report import save
        from sb3_spiking.report.make import make_report

        with warnings.catch_warnings():
            # Published results are from these versions of the environments.
            warnings.filterwarnings("ignore", message=".*is out of date.*")
            report = make_report(args)
            saving = True
            print(save(report, args.out), end="")
        print(f"\nwritten to {args.out}: report.md, report.json, report.html, report.png")
    except USER_ERRORS as error:
        if args.traceback:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        what = f"see whether the files in {args.out} are new" if saving else "nothing was written"
        print(f"interrupted; {what}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
