"""Looks at a network while it learns, and what loggers take of them."""

import warnings
from collections.abc import Callable
from typing import Any

from d3rlpy.torch_utility import TorchTrajectoryMiniBatch

from d3rlpy_spiking.monitor import figures
from d3rlpy_spiking.monitor.faults import Warner, findings_of
from d3rlpy_spiking.monitor.look import excerpt, look, part, sparse_layers
from d3rlpy_spiking.operations import count_operations
from d3rlpy_spiking.recording import paused_rates
from policies.distributed import is_main
from policies.monitor import Finding, NetworkActivity
from policies.monitor.raster import Raster


class Watch:
    """What the last look has shown, and figures of layers that wait for a logger.

    Attributes:
        activity: of the last look; None before the first.
        findings: its faults, those that may pass included.
        looks: looks so far.
        off: whether a look has failed, after which there are none.
        warner: says which faults have been warned of.
    """

    def __init__(self) -> None:
        self.activity: NetworkActivity | None = None
        self.findings: list[Finding] = []
        self.looks = 0
        self.warner = Warner()
        self.off = False
        # sum and number of each layer's figures
        self._waiting: dict[str, tuple[float, int]] = {}

    def note(
        self, activity: NetworkActivity, findings: list[Finding], when: str
    ) -> dict[str, float]:
        """Keep a look, warn of its faults, and give the figures of the whole network."""
        self.activity, self.findings = activity, findings
        self.looks += 1
        out: dict[str, float] = {}
        if sound(activity):
            out = figures.summary(activity)
            for name, value in figures.by_layer(activity).items():
                total, number = self._waiting.get(name, (0.0, 0))
                self._waiting[name] = (total + value, number + 1)
        out["faults"] = float(self.warner.judge(findings, when))
        return out

    def guarded(self, take: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What a look gives. One that fails, as for want of memory, is the last: training goes on.

        Args:
            take: looks.
        """
        if self.off:
            return {}
        try:
            return take()
        except RuntimeError as error:
            self.off = True
            warnings.warn(f"the spike monitor is off: {error}", UserWarning, stacklevel=2)
            return {}

    def take_layers(self) -> dict[str, float]:
        """Figures of each layer, means over the looks since this was asked last."""
        out = {name: total / number for name, (total, number) in self._waiting.items()}
        self._waiting.clear()
        return out

    def rasters(self) -> list[Raster]:
        """Spikes of a stretch of an episode, as the network stands; empty before the first look."""
        return []


def sound(activity: NetworkActivity) -> bool:
    """Whether a look's figures are numbers."""
    finite = all(layer.finite for layer in activity.layers)
    read = all(readout.finite for readout in activity.readouts)
    return finite and read and not activity.broken and not activity.failed


class TransformerWatch(Watch):
    """Looks at a transformer after its first update and every `every` ones from there.

    In several processes the first one alone looks; that asks nothing of the others.

    Args:
        algo: a built algorithm of this package.
        every: updates between two looks; 0: none.
    """

    def __init__(self, algo: Any, every: int) -> None:
        super().__init__()
        self.every = every
        self._algo = algo
        self._batch: TorchTrajectoryMiniBatch | None = None

    def after_update(self, batch: TorchTrajectoryMiniBatch) -> dict[str, float]:
        """Figures of the whole network where a look is due, on a part of the update's batch."""
        impl = self._algo.impl
        # As saved with the weights: a run that goes on looks where it would have without a break.
        step = int(impl.progress.step)
        if not self.every or (step - 1) % self.every or not is_main():
            return {}
        batch = part(batch)
        if int(batch.masks.sum()) < 2:
            return {}
        self._batch = batch
        with paused_rates(impl.network):
            return self.guarded(lambda: self._look(batch, step))

    def _look(self, batch: TorchTrajectoryMiniBatch, step: int) -> dict[str, float]:
        impl = self._algo.impl
        activity = look(impl.network, batch)
        out = self.note(
            activity, findings_of(activity, sparse_layers(impl.network)), f"step {step}"
        )
        if sound(activity):
            out |= figures.per_action(count_operations(self._algo, batch))
            if self._algo.compiled:  # no step records rates then
                out |= figures.rates(activity)
        return out

    def rasters(self) -> list[Raster]:
        """Spikes of the longest context of the last look's batch."""
        if self._batch is None or self.activity is None or not sound(self.activity):
            return []
        return excerpt(self._algo.impl.network, self._batch)
