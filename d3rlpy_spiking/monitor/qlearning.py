"""One look at the spiking networks of a Q-learning algorithm, and a logger that takes it.

The networks are those of `PopulationSpikingEncoderFactory` with d3rlpy's dense heads behind them.
"""

import dataclasses
from typing import Any

import torch
from d3rlpy.dataset import ReplayBufferBase
from d3rlpy.logging import FileAdapterFactory, LoggerAdapter, LoggerAdapterFactory
from torch import Tensor, nn

from d3rlpy_spiking.encoders import PopulationSpikingEncoderWithAction, SpikingTrunk
from d3rlpy_spiking.monitor import figures
from d3rlpy_spiking.monitor.adapters import LayerFiguresAdapter
from d3rlpy_spiking.monitor.faults import findings_of
from d3rlpy_spiking.monitor.samples import check_fits, episode_start, steps
from d3rlpy_spiking.monitor.watch import Watch, sound
from d3rlpy_spiking.operations import count_decision
from policies.config import check_count
from policies.distributed import is_main
from policies.monitor import NetworkActivity, probe
from policies.monitor.raster import MAX_SAMPLES, Raster, record

# Bent inputs beyond this part of the fields' range look alike: 3 times the range and more.
EDGE = 0.95


class Networks(nn.Module):
    """The networks of a Q-learning algorithm that hold spiking encoders, target networks aside.

    Forward gives the encoders observations and actions, and their features to the heads.

    Args:
        algo: a built algorithm.
    """

    def __init__(self, algo: Any) -> None:
        super().__init__()
        for name, module in vars(algo.impl.modules).items():
            if isinstance(module, nn.Module) and not name.startswith("targ"):
                self.add_module(name, module)
        # (name of what holds it, trunk, its heads' names)
        self.trunks: list[tuple[str, SpikingTrunk, list[str]]] = []
        for name, module in self.named_modules():
            for part in module.children():
                if isinstance(part, SpikingTrunk):
                    self.trunks.append((name, part, _heads(name, module, part)))

    def forward(self, observations: Tensor, actions: Tensor) -> None:
        """Run every encoder and head on [B, n] and [B, ...]."""
        for _, trunk, heads in self.trunks:
            features = trunk(*_inputs(trunk, observations, actions))
            for head in heads:
                self.get_submodule(head)(features)


def _heads(name: str, module: nn.Module, trunk: SpikingTrunk) -> list[str]:
    size = trunk.body.config.decoder.pop_size
    return [
        f"{name}.{child}"
        for child, part in module.named_children()
        # "_embed" of quantile networks reads quantiles.
        if isinstance(part, nn.Linear) and part.in_features == size and child != "_embed"
    ]


def _inputs(trunk: SpikingTrunk, observations: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
    if not isinstance(trunk, PopulationSpikingEncoderWithAction):
        return (observations,)
    if trunk.discrete or actions[0].numel() == trunk.actions:
        return observations, actions
    # What a decoder gets for an action is drawn from a normal distribution.
    drawn = torch.randn(
        len(observations), trunk.actions, generator=torch.Generator().manual_seed(0)
    )
    return observations, drawn.to(observations)


def look(algo: Any, observations: Tensor, actions: Tensor) -> NetworkActivity:
    """What the spiking networks of a Q-learning algorithm do with a batch, in evaluation mode.

    Args:
        algo: a built algorithm.
        observations: [B, n], scaled.
        actions: [B, ...], scaled.
    """
    networks = Networks(algo)
    seen: dict[str, Tensor] = {}
    handles = []
    for _, trunk, _ in networks.trunks:
        below = next(n for n, module in networks.named_modules() if module is trunk)
        hook = _keep(seen, f"{below}.body.encoder", trunk.reach)
        handles.append(trunk.body.register_forward_pre_hook(hook))
    heads: dict[str, Tensor | None] = {
        head: None for *_, names in networks.trunks for head in names
    }
    try:
        activity = probe(networks, lambda: networks(observations, actions), heads)
    finally:
        for handle in handles:
            handle.remove()
    encoders = tuple(
        dataclasses.replace(encoder, missed=torch.maximum(encoder.missed, seen[encoder.name]))
        for encoder in activity.encoders
    )
    return dataclasses.replace(activity, encoders=encoders)


def _keep(seen: dict[str, Tensor], name: str, reach: float) -> Any:
    """A hook that notes the share of values [D] at the edge of the fields' range."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[name] = (args[0].detach().abs() >= EDGE * reach).float().mean(dim=0)

    return hook


class QLearningWatch(Watch):
    """Looks at a Q-learning algorithm on steps of a dataset.

    Args:
        algo: a built algorithm.
        data: a ReplayBuffer.
        samples: steps in a look.
    """

    def __init__(self, algo: Any, data: ReplayBufferBase, samples: int) -> None:
        super().__init__()
        self._algo = algo
        self._data = data
        self._samples = samples

    def take(self, step: int) -> dict[str, float]:
        """Figures of all networks together."""
        observations, actions = steps(self._algo, self._data, self._samples)
        activity = look(self._algo, observations, actions)
        out = self.note(activity, findings_of(activity), f"step {step}")
        if sound(activity):
            out |= figures.rates(activity)
            out |= figures.per_action(count_decision(self._algo, observations))
        return out

    def rasters(self) -> list[Raster]:
        """Spikes of the dataset's first episode, up to its 200th step."""
        if self.activity is None or not sound(self.activity):
            return []
        networks = Networks(self._algo)
        observations, actions = episode_start(self._algo, self._data, MAX_SAMPLES)
        return record(networks, lambda: networks(observations, actions))


class SpikeMonitorAdapter(LayerFiguresAdapter):
    """Looks where d3rlpy writes metrics, and adds figures to them; see SpikeMonitor."""

    def __init__(
        self, algo: Any, adapter: LoggerAdapter, watch: QLearningWatch, every: int
    ) -> None:
        super().__init__(algo, adapter)
        self._watch = watch
        self._every = every
        self._last: int | None = None

    def after_write_metric(self, epoch: int, step: int) -> None:
        """Look if it is time, write what is seen, then pass on."""
        if is_main() and (self._last is None or step - self._last >= self._every):
            self._last = step
            taken = self._watch.guarded(lambda: self._watch.take(step))
            for name, value in taken.items():
                self.write_metric(epoch, step, name, value)
        super().after_write_metric(epoch, step)


class SpikeMonitor(LoggerAdapterFactory):
    """A logger that adds what spiking encoders do to the metrics of a Q-learning algorithm.

        algo.fit(dataset, n_steps=100_000, logger_adapter=SpikeMonitor(dataset))

    d3rlpy gives its callbacks no logger, but every logger the algorithm; so this one stands round
    another. Whenever d3rlpy writes metrics, at the end of each epoch as a rule, the networks run
    once more on steps of the dataset. Names are those of `d3rlpy_spiking.monitor`; energy is that
    of a greedy action, by all networks that take part in it. Algorithms without a spiking encoder
    are let pass. It draws no random numbers and changes no network.

    Args:
        dataset: what is trained on; for `fit_online` the buffer.
        logger_adapter: what writes; None: d3rlpy's CSV files. A SpikeTensorboardAdapterFactory gets
            histograms and pictures too.
        every: gradient steps between two looks at least, >= 1.
        samples: steps of the dataset in a look, >= 64.

    Raises:
        TypeError: if dataset is no ReplayBuffer.
        ValueError: if a number is out of range; or in `fit`, for a spiking transformer, which has
            its own monitor, or if the dataset's episodes do not fit the algorithm.
    """

    def __init__(
        self,
        dataset: ReplayBufferBase,
        logger_adapter: LoggerAdapterFactory | None = None,
        every: int = 500,
        samples: int = 256,
    ) -> None:
        check_count("every", every)
        check_count("samples", samples)
        if samples < 64:
            raise ValueError(f"samples must be at least 64, got {samples}: fewer say little")
        if not isinstance(dataset, ReplayBufferBase):
            raise TypeError(
                "dataset must be the ReplayBuffer that the algorithm is trained on, got "
                f"{type(dataset).__name__}"
            )
        self._dataset = dataset
        self._inner = FileAdapterFactory() if logger_adapter is None else logger_adapter
        self._every = every
        self._samples = samples

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> LoggerAdapter:
        """The adapter; d3rlpy calls it."""
        if hasattr(algo.impl, "watch"):
            raise ValueError(
                f"{type(algo).__name__} logs its spikes by itself; pass the logger without "
                "SpikeMonitor, and set monitor_every in the config"
            )
        spiking = bool(Networks(algo).trunks)
        # A buffer to be filled online has nothing to check yet.
        if spiking and self._dataset.episodes:
            check_fits(algo, self._dataset)
        inner = self._inner.create(algo, experiment_name, n_steps_per_epoch)
        if not spiking:
            return inner
        watch = QLearningWatch(algo, self._dataset, self._samples)
        algo.spike_monitor = watch
        return SpikeMonitorAdapter(algo, inner, watch, self._every)
