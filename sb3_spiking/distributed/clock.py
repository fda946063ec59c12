"""Where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator

from policies.distributed import exchange_seconds

# In a run's folder, what it took (policies.energy.gps_up.RunRecord). Written last: where it is, the
# run is finished.
RECORD = "distributed.json"


class Clock:
    """Wall seconds of this rank while it learned, by what it did; none is counted twice.

    Attributes:
        seconds: "environment": steps of the environments, and the decisions for them; "gradient":
            forward, backward and optimizer; "callbacks": what they do between two steps, such as
            evaluation and checkpoints; "exchange": messages to other ranks, waiting for them
            included; "total": all of `learn`, logging included.
    """

    def __init__(self) -> None:
        names = ("environment", "gradient", "callbacks", "exchange", "total")
        self.seconds = dict.fromkeys(names, 0.0)
        # (seconds, of these in exchanges) of what was measured within each open measurement
        self._within = [(0.0, 0.0)]

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time within to one kind, but for what is measured apart within it."""
        begin, before = time.perf_counter(), exchange_seconds()
        self._within.append((0.0, 0.0))
        try:
            yield
        finally:
            spent, waited = time.perf_counter() - begin, exchange_seconds() - before
            inner, inner_waited = self._within.pop()
            outer, outer_waited = self._within[-1]
            self._within[-1] = outer + spent, outer_waited + waited
            own_waited = waited - inner_waited
            self.seconds["exchange"] += own_waited
            self.seconds[name] += spent if name == "total" else spent - inner - own_waited

    def as_dict(self) -> dict[str, float]:
        """The seconds, a copy."""
        return dict(self.seconds)
