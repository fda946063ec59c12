"""Loggers: figures of each layer go to any of d3rlpy's, pictures to TensorBoard."""

from importlib.util import find_spec
from typing import Any

from d3rlpy.logging import (
    LoggerAdapter,
    LoggerAdapterFactory,
    TensorboardAdapter,
)

from d3rlpy_spiking.monitor.watch import Watch
from d3rlpy_spiking.options import check_interval
from policies.monitor import NetworkActivity
from policies.monitor.raster import draw


def watch_of(algo: Any) -> Watch | None:
    """What watches an algorithm's spikes."""
    watch = getattr(algo, "spike_monitor", None)
    return watch if isinstance(watch, Watch) else None


class LayerFiguresAdapter(LoggerAdapter):
    """Passes everything on, and with each epoch's metrics what was seen of each layer.

    d3rlpy's progress bar and log show whatever `update` returns; figures of single layers would
    fill the screen, and go round it.

    Args:
        algo: what trains.
        adapter: what writes.
    """

    def __init__(self, algo: Any, adapter: LoggerAdapter) -> None:
        self._algo = algo
        self.adapter = adapter

    def write_params(self, params: dict[str, Any]) -> None:
        """Pass on."""
        self.adapter.write_params(params)

    def before_write_metric(self, epoch: int, step: int) -> None:
        """Pass on."""
        self.adapter.before_write_metric(epoch, step)

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        """Pass on."""
        self.adapter.write_metric(epoch, step, name, value)

    def after_write_metric(self, epoch: int, step: int) -> None:
        """Write the layers' figures, then pass on."""
        watch = watch_of(self._algo)
        for name, value in ({} if watch is None else watch.take_layers()).items():
            self.adapter.write_metric(epoch, step, name, value)
        self.adapter.after_write_metric(epoch, step)

    def save_model(self, epoch: int, algo: Any) -> None:
        """Pass on."""
        self.adapter.save_model(epoch, algo)

    def close(self) -> None:
        """Pass on."""
        self.adapter.close()

    def watch_model(self, epoch: int, step: int) -> None:
        """Pass on."""
        self.adapter.watch_model(epoch, step)


class LayerFigures(LoggerAdapterFactory):
    """Makes LayerFiguresAdapters; `fit` of this package's algorithms puts it round any other.

    Args:
        factory: makes what writes.
    """

    def __init__(self, factory: LoggerAdapterFactory) -> None:
        self._factory = factory

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> LoggerAdapter:
        """The adapter; d3rlpy calls it."""
        adapter = self._factory.create(algo, experiment_name, n_steps_per_epoch)
        return LayerFiguresAdapter(algo, adapter)


class SpikeTensorboardAdapter(TensorboardAdapter):
    """d3rlpy's TensorBoard files, with histograms of firing rates and pictures of spikes.

    Args:
        algo: what trains.
        root_dir: top folder of the files.
        experiment_name: the run's name below it.
        raster_every: epochs between two pictures; 0: none.
    """

    def __init__(self, algo: Any, root_dir: str, experiment_name: str, raster_every: int) -> None:
        super().__init__(algo, root_dir, experiment_name)
        self._raster_every = raster_every if find_spec("matplotlib") is not None else 0
        self._drawn: int | None = None
        self._shown: NetworkActivity | None = None

    def watch_model(self, epoch: int, step: int) -> None:
        """Write gradients as d3rlpy does, and what is new of the spikes."""
        super().watch_model(epoch, step)
        self.show(epoch, step)

    def show(self, epoch: int, step: int) -> None:
        """Write histograms, and where it is time a picture, of a look that is new."""
        watch = watch_of(self._algo)
        if watch is None or watch.activity is None or watch.activity is self._shown:
            return
        self._shown = watch.activity
        for layer in watch.activity.layers:
            name = f"spikes/rates/{layer.name}"
            self._writer.add_histogram(name, layer.rates.cpu().numpy(), epoch)
        due = self._drawn is None or epoch >= self._drawn + self._raster_every
        if self._raster_every and due:
            self._draw(watch, epoch, step)

    def _draw(self, watch: Watch, epoch: int, step: int) -> None:
        rasters = watch.rasters()
        if rasters:
            self._drawn = epoch
            figure = draw(rasters, f"a stretch of an episode, at step {step}")
            self._writer.add_figure("spikes/raster", figure, epoch)


class SpikeTensorboardAdapterFactory(LoggerAdapterFactory):
    """As d3rlpy's TensorboardAdapterFactory, with histograms and pictures of spikes.

    The histograms show the firing rates of each layer's neurons, after epochs in which the monitor
    has looked. A picture shows the spikes of a stretch of one episode; it needs matplotlib, without
    which there is none.

    Args:
        root_dir: top folder of the files.
        raster_every: epochs between two pictures, >= 1; 0: none.

    Raises:
        TypeError: if raster_every is no integer.
        ValueError: if it is negative.
    """

    def __init__(self, root_dir: str = "tensorboard_logs", raster_every: int = 10) -> None:
        check_interval("raster_every", raster_every)
        self._root_dir = root_dir
        self._raster_every = raster_every

    def create(
        self, algo: Any, experiment_name: str, n_steps_per_epoch: int
    ) -> SpikeTensorboardAdapter:
        """The adapter; d3rlpy calls it."""
        return SpikeTensorboardAdapter(algo, self._root_dir, experiment_name, self._raster_every)
