"""How this process was started, by torchrun or alone; it is asked before torch is imported."""

import os
import signal
import threading
from typing import Any

from d3rlpy_spiking.cli.errors import UsageError

# As in policies.distributed.group, which imports torch.
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether torchrun, or whoever sets its variables, has started this process."""
    return all(name in os.environ for name in VARIABLES)


def first_here() -> bool:
    """Whether this process is the one of its machine that speaks before the ranks have met."""
    return not launched() or os.environ["LOCAL_RANK"] == "0"


def launch_number(name: str, default: int) -> int:
    """A number among torchrun's variables; the default where it did not start this process.

    Raises:
        UsageError: if it is no number.
    """
    text = os.environ.get(name) if launched() else None
    if text is None:
        return default
    if not text.isdecimal():
        raise UsageError(
            f"the environment variable {name} must be a number, got {text!r}; start the command "
            "with torchrun, or unset it"
        )
    return int(text)


def on_sigterm(action: Any) -> None:
    """Do that at SIGTERM from now on; nothing in a thread, which may not set it, nor for None."""
    if action is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, action)
