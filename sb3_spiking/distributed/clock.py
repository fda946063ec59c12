"""Where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator

from policies.distributed import exchange_seconds

# In a run's folder, what it took (policies.gps_up.RunRecord). Written last: where it is, the run is
# finished.
RECORD = "distributed.json"


class Clock:
    """Wall seconds of this rank while it learned, by what it did.

    Attributes:
        environment: steps of the environments, and the decisions for them.
        gradient: forward, backward and optimizer.
        exchange: messages to other ranks, waiting for them included.
        total: all of `learn`; what is left over are callbacks and logging between rollouts.
    """

    def __init__(self) -> None:
        self.environment = 0.0
        self.gradient = 0.0
        self.exchange = 0.0
        self.total = 0.0

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time within to one attribute; that of exchanges goes to `exchange`."""
        begin, before = time.perf_counter(), exchange_seconds()
        try:
            yield
        finally:
            waited = exchange_seconds() - before
            spent = time.perf_counter() - begin
            if name == "total":
                self.total += spent
            else:
                setattr(self, name, getattr(self, name) + spent - waited)
                self.exchange += waited

    def as_dict(self) -> dict[str, float]:
        """The four numbers, in seconds."""
        return {
            "environment": self.environment,
            "gradient": self.gradient,
            "exchange": self.exchange,
            "total": self.total,
        }
