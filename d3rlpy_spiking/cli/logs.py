"""What a run writes while it trains: d3rlpy's files, a line an epoch, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from d3rlpy.logging import FileAdapter, LoggerAdapter, LoggerAdapterFactory

from d3rlpy_spiking.cli.runs import Run
from d3rlpy_spiking.monitor import SpikeTensorboardAdapterFactory
from policies.distributed import gather_objects, is_main

# A score of the algorithm at a checkpoint.
Score = Callable[[Any], float]


class _Files(FileAdapter):
    def __init__(self, algo: Any, folder: Path, resumed: bool) -> None:
        super().__init__(algo, str(folder))
        # d3rlpy empties the gradients' files at their first rows.
        self._is_model_watched = resumed


def _mean_over_ranks(metrics: dict[str, float]) -> dict[str, float]:
    """Means over the ranks that have a metric: the first one alone looks at spikes."""
    every = gather_objects(metrics)
    values = {name: [other[name] for other in every if name in other] for name in metrics}
    return {name: sum(found) / len(found) for name, found in values.items()}


class RunAdapter(LoggerAdapter):
    """Passes d3rlpy's metrics on to its own adapters, counting from the start of the run.

    d3rlpy counts epochs and steps from the call of fit. Metrics are means over the ranks, which all
    need an adapter; only rank 0's has others behind it, and saves.
    """

    def __init__(self, adapters: list[Any], log: "RunLog", steps_per_epoch: int) -> None:
        self.adapters = adapters
        self.log = log
        self.steps_per_epoch = steps_per_epoch

    def _at(self, epoch: int, step: int) -> tuple[int, int]:
        return epoch + self.log.first_step // self.steps_per_epoch, step + self.log.first_step

    def write_params(self, params: dict[str, Any]) -> None:
        """Pass on."""
        for adapter in self.adapters:
            adapter.write_params(params)

    def before_write_metric(self, epoch: int, step: int) -> None:
        """Pass on."""
        self.log.metrics = {}
        for adapter in self.adapters:
            adapter.before_write_metric(*self._at(epoch, step))

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        """Keep it until the epoch's metrics are complete."""
        self.log.metrics[name] = value

    def after_write_metric(self, epoch: int, step: int) -> None:
        """Pass on what was kept; print the epoch's line."""
        self.log.metrics = _mean_over_ranks(self.log.metrics)
        for adapter in self.adapters:
            for name, value in self.log.metrics.items():
                adapter.write_metric(*self._at(epoch, step), name, value)
        for adapter in self.adapters:
            adapter.after_write_metric(*self._at(epoch, step))
        self.log.print_line(self._at(epoch, step)[1])

    def watch_model(self, epoch: int, step: int) -> None:
        """Pass on."""
        for adapter in self.adapters:
            adapter.watch_model(*self._at(epoch, step))

    def save_model(self, epoch: int, algo: Any) -> None:
        """Save a checkpoint and score it; d3rlpy passes steps as epoch."""
        if not is_main():
            return
        step = epoch + self.log.first_step
        self.log.run.save(algo, step)
        if self.log.score is None:
            return
        value = self.log.score(algo)
        for adapter in self.adapters:
            adapter.write_metric(step // self.steps_per_epoch, step, "environment", value)
        print(f"step {step}  environment {value:.4g}", flush=True)

    def close(self) -> None:
        """Close all; what is closed stays so."""
        while self.adapters:
            self.adapters.pop().close()


class RunLog(LoggerAdapterFactory):
    """Makes the adapter of a run.

    Args:
        run: the run.
        first_step: gradient steps done before.
        last_step: gradient steps at the end.
        score: scores each checkpoint; None: nothing does.
    """

    def __init__(self, run: Run, first_step: int, last_step: int, score: Score | None) -> None:
        self.run = run
        self.first_step = first_step
        self.last_step = last_step
        self.score = score
        self.metrics: dict[str, float] = {}
        self._adapter: RunAdapter | None = None

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> RunAdapter:
        """The adapter; d3rlpy calls it."""
        folder = self.run.folder
        adapters: list[Any] = []
        if is_main():
            adapters.append(_Files(algo, folder, resumed=self.first_step > 0))
            tensorboard = SpikeTensorboardAdapterFactory(str(folder))
            adapters.append(tensorboard.create(algo, experiment_name, n_steps_per_epoch))
        self._adapter = RunAdapter(adapters, self, n_steps_per_epoch)
        return self._adapter

    def close(self) -> None:
        """Close the files: d3rlpy leaves them open where training is interrupted."""
        if self._adapter is not None:
            self._adapter.close()

    def print_line(self, step: int) -> None:
        """Print the metrics of an epoch, but for its timings and those of single layers."""
        shown = [
            f"{n} {v:.4g}"
            for n, v in self.metrics.items()
            if not n.startswith("time_") and "." not in n
        ]
        print(f"step {step}/{self.last_step}  {'  '.join(shown)}", flush=True)
