"""RL Zoo on many ranks: `torchrun --nproc-per-node 2 -m sb3_spiking.distributed train ...`.

Takes RL Zoo's own arguments and hyperparameter files, with spiking policies unless told otherwise.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from policies.distributed import RankLostError, is_main, process_group
from policies.energy.gps_up import RunRecord, table
from sb3_spiking.distributed.clock import RECORD

_DESCRIPTION = """\
RL Zoo's training on all processes of torchrun; N ranks train one policy.

  torchrun --nproc-per-node 2 -m sb3_spiking.distributed train --algo td3 --env HalfCheetah-v4

All further arguments are RL Zoo's (python -m sb3_spiking.zoo train --help). -n, --eval-freq and
--save-freq are in environment steps of all ranks together; without --save-freq there is a
checkpoint every tenth of the run. Each rank has its own environments and replay buffer, and
batch_size and n_steps of the hyperparameters are each rank's.

  python -m sb3_spiking.distributed compare logs/td3/Hopper-v4_1 logs/td3/Hopper-v4_2

compares finished runs of about the same number of steps with the first: Speedup, Greenup, Powerup.
"""

_LOST = "training goes on from its last checkpoint with --resume"
# Also known before and after the group.
_RANK = os.environ.get("RANK", "0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_spiking.distributed",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["train", "compare"])
    add = parser.add_argument
    add(
        "--resume",
        action="store_true",
        help="go on with the newest run that has a checkpoint, unless it is finished",
    )
    add("--split", action="store_true", help="share out the batch; see sb3_spiking.distributed")
    add("--amp", choices=["bf16"], help="bfloat16 layers; parameters stay float32")
    add("--dense", action="store_true", help="the policies that the files name, not spiking ones")
    add(
        "--eval-ranks",
        choices=["0", "all"],
        default="0",
        help="who evaluates: rank 0 while the others wait (default), or all, a share each",
    )
    add("--energy", action="store_true", help="measure energy; needs spiking-policies[energy]")
    add("--backend", help="gloo, nccl or mpi, if PyTorch has it; default: what the devices take")
    add(
        "--timeout",
        type=float,
        default=1800.0,
        help="seconds to wait for a rank that lives but is silent; default 1800",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train; never returns after an error."""
    options, zoo_args = _parser().parse_known_args(argv)
    if options.command == "compare":
        _compare(zoo_args)
        return
    signal.signal(signal.SIGTERM, _stopped)
    try:
        with process_group(options.backend, timedelta(seconds=options.timeout)):
            with open(os.devnull, "w") as nowhere:
                quiet: Any = contextlib.redirect_stdout(nowhere)
                with contextlib.nullcontext() if is_main() else quiet:
                    _train(options, zoo_args)
    except SystemExit:
        raise
    except KeyboardInterrupt:
        _end(f"interrupted; {_LOST}", 130)
    except BaseException as error:
        if not _explains_itself(error):
            traceback.print_exc()
            _end(f"rank {_RANK} failed ({type(error).__name__}: {error}); {_LOST}", 1)
        _end(f"error on rank {_RANK}: {error}", 1)


def _explains_itself(error: BaseException) -> bool:
    """Whether it is an error of a user's that this project or RL Zoo has raised."""
    if isinstance(error, RankLostError):
        return True
    if not isinstance(error, ValueError | TypeError | ImportError | FileNotFoundError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    folders = {part for frame in frames[-1:] for part in Path(frame.filename).parts}
    return bool(folders & {"policies", "sb3_spiking", "rl_zoo3"})


def _train(options: argparse.Namespace, zoo_args: list[str]) -> None:
    import rl_zoo3.train

    from sb3_spiking.distributed.zoo import manager_class

    # RL Zoo's documented way to extend it: its script looks the class up here.
    vars(rl_zoo3.train)["ExperimentManager"] = manager_class(options)
    if not is_main():
        zoo_args = [arg for arg in zoo_args if arg != "--track"]  # one run, one record
    # RL Zoo reads the process's arguments by itself.
    sys.argv = ["python -m sb3_spiking.distributed train", *zoo_args]
    rl_zoo3.train.train()


def _compare(folders: list[str]) -> None:
    """Print a table of runs."""
    if not folders:
        _end("error: compare needs the folders of two runs or more", 2)
    try:
        print(table([RunRecord.load(Path(folder) / RECORD) for folder in folders]))
    except (OSError, ValueError) as error:
        _end(f"error: {error}", 2)


def _stopped(number: int, frame: object) -> None:
    _end(f"rank {_RANK} was told to stop: another rank has ended, or all were stopped; {_LOST}", 1)


def _end(message: str, code: int) -> NoReturn:
    """Say why and end at once: an orderly end would wait for ranks that may be gone."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report is not None:  # torchrun shows in its summary what stands there
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError), open(report, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": message, "extraInfo": details}}, file)
    os._exit(code)


if __name__ == "__main__":
    main()
