"""What every spiking transformer algorithm adds to d3rlpy's: checks, atomic files, fold, export."""

import copy
import dataclasses
import pickle
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from d3rlpy.algos import TransformerActionSampler, TransformerInput
from d3rlpy.base import dump_learnable
from d3rlpy.constants import ActionSpace, PositionEncodingType
from d3rlpy.logging import FileAdapterFactory, LoggerAdapterFactory
from d3rlpy.models.torch.transformers import (
    GlobalPositionEncoding,
    PositionEncoding,
    SimplePositionEncoding,
)
from d3rlpy.types import NDArray, Shape
from torch import nn

from d3rlpy_spiking.dataset_checks import check_dataset, check_fit
from d3rlpy_spiking.distributed import distribute
from d3rlpy_spiking.export import save_policy
from d3rlpy_spiking.monitor.adapters import LayerFigures
from d3rlpy_spiking.monitor.watch import TransformerWatch
from d3rlpy_spiking.transformer import SpikingNetwork, fold_network
from policies.files import write_atomically
from policies.kernels.choice import Kernel

if TYPE_CHECKING:
    from d3rlpy_spiking.incremental import IncrementalWrapper


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Stands in every saved file: unpickling it imports this package, which registers its configs.

    So `d3rlpy.load_learnable` needs no import but d3rlpy's.
    """

    name: str = "d3rlpy_spiking"


class SpikingTransformerAlgorithm:
    """Stands before d3rlpy's algorithm among the bases."""

    _config: Any
    _impl: Any
    _device: str
    _enable_ddp: bool
    # whether the network reads timesteps, from a table of max_timestep
    uses_timesteps = True

    def fit(
        self,
        dataset: Any,
        n_steps: int,
        n_steps_per_epoch: int = 10000,
        experiment_name: str | None = None,
        with_timestamp: bool = True,
        logger_adapter: LoggerAdapterFactory | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Train as d3rlpy does, after checking everything that would fail later or silently.

        Without a logger_adapter d3rlpy's own writes CSV files. Warns where PTBN would not reach
        batch statistics, which evaluation uses.

        Raises:
            ValueError: if fewer steps than one epoch are asked for (d3rlpy would train nothing),
                or the dataset is broken or does not fit the config.
        """
        check_fit(n_steps, n_steps_per_epoch)
        discrete = self.get_action_type() == ActionSpace.DISCRETE  # type: ignore[attr-defined]
        check_dataset(dataset, discrete=discrete, action_scaler=self._config.action_scaler)
        self._check_episode_lengths(dataset)
        self._check_schedule(n_steps)
        logger_adapter = FileAdapterFactory() if logger_adapter is None else logger_adapter
        super().fit(  # type: ignore[misc]  # d3rlpy's
            dataset,
            n_steps,
            n_steps_per_epoch,
            experiment_name,
            with_timestamp,
            LayerFigures(logger_adapter),
            *args,
            **kwargs,
        )

    def _check_schedule(self, n_steps: int) -> None:
        done = 0 if self._impl is None else int(self._impl.progress.step)
        if self._config.normalization == "ptbn" and done + n_steps < self._config.ptbn_steps:
            warnings.warn(
                f"training ends at step {done + n_steps}, before ptbn_steps="
                f"{self._config.ptbn_steps}: evaluation uses batch statistics, which the network "
                "has not been trained with by then; set ptbn_steps to a tenth of n_steps",
                UserWarning,
                stacklevel=3,
            )

    def _check_episode_lengths(self, dataset: Any) -> None:
        longest = max(episode.size() for episode in dataset.episodes)
        if self.uses_timesteps and longest > self._config.max_timestep:
            raise ValueError(
                f"max_timestep must be at least the longest episode, {longest} steps, got "
                f"{self._config.max_timestep}; d3rlpy counts timesteps from 1 and looks them up "
                f"in a table of that size; set max_timestep={longest}"
            )

    def predict(self, inpt: TransformerInput) -> NDArray:
        """Action or logits for the last step of a context.

        Raises:
            ValueError: if an input is NaN or infinite, or the network's weights are.
        """
        for name in ("observations", "actions", "returns_to_go"):
            value = getattr(inpt, name)
            for part in value if isinstance(value, list | tuple) else [value]:
                if not np.isfinite(part).all():
                    raise ValueError(
                        f"{name} must be finite, got NaN or infinity; check the environment and "
                        "the target return"
                    )
        action: NDArray = super().predict(inpt)  # type: ignore[misc]  # d3rlpy's
        if not np.isfinite(action).all():
            raise ValueError(
                "the network gives NaN for a finite input: its weights are broken; load an "
                "earlier checkpoint, and lower the learning rate or clip the gradient"
            )
        return action

    def as_incremental_wrapper(
        self,
        target_return: float,
        action_sampler: TransformerActionSampler | None = None,
        *,
        keep: int | None = None,
        kernel: Kernel | None = None,
    ) -> "IncrementalWrapper":
        """As d3rlpy's `as_stateful_wrapper`, at a cost a step that does not grow with the context.

        See `d3rlpy_spiking.incremental.IncrementalWrapper` for what it equals and what it raises.
        """
        from d3rlpy_spiking.incremental import IncrementalWrapper

        return IncrementalWrapper(self, target_return, action_sampler, keep, kernel)

    def save(self, fname: str) -> None:
        """Save weights, optimizer, schedules and config; a finished file or none.

        The file loads with `d3rlpy.load_learnable` in a process that imports only d3rlpy.
        """
        if self._impl is None:
            raise ValueError("nothing to save yet: call fit, build_with_dataset or create_impl")

        def write(path: str) -> None:
            dump_learnable(self, path)
            with open(path, "rb") as file:
                content = pickle.load(file)
            content["plugin"] = Plugin()
            with open(path, "wb") as file:
                pickle.dump(content, file)

        write_atomically(fname, write)

    def save_model(self, fname: str) -> None:
        """Save weights, optimizer and schedules; a finished file or none."""
        write_atomically(fname, super().save_model)  # type: ignore[misc]  # d3rlpy's

    def save_policy(self, fname: str) -> None:
        """Save the network for a full context as TorchScript (.pt) or ONNX (.onnx).

        Inputs and output are those of d3rlpy's files; no step counts as padding.

        Raises:
            ValueError: if the name ends in neither.
        """
        save_policy(self, fname)

    def fold(self) -> Self:
        """A copy without norms: the spike-driven network, for inference on few operations.

        Each norm goes into the linear layer before it, the last one into the head. What remains
        real-valued is the embedding, its layer norm included, and the head. The copy has
        normalization="folded"; it predicts, saves, loads and exports as this one does. While theta
        is above 0, training still uses layer statistics that evaluation and the copy do not have:
        a warning says so.

        Raises:
            ValueError: if normalization="tdln" or attention="softmax", or it is folded already.
        """
        if self._impl is None:
            raise ValueError("nothing to fold yet: train or load the algorithm first")
        network: SpikingNetwork = copy.deepcopy(self._impl.network)
        fold_network(network)
        theta = float(self._impl.progress.theta)
        if self._config.normalization == "ptbn" and theta > 0.0:
            warnings.warn(
                f"PTBN has not reached batch statistics yet (theta {theta:.2f}): evaluated or "
                "folded the network decides otherwise than it was trained; train for more than "
                f"ptbn_steps={self._config.ptbn_steps} steps, or set ptbn_steps to a tenth of them",
                UserWarning,
                stacklevel=2,
            )
        config = dataclasses.replace(self._config, normalization="folded")
        folded: Self = config.create(device=self._device)
        with torch.random.fork_rng():  # folding must not change a seeded run
            folded.create_impl(  # type: ignore[attr-defined]  # d3rlpy's
                self._impl.observation_shape, self._impl.action_size
            )
        modules = folded._impl.modules.get_torch_modules()
        for name, module in self._impl.modules.get_torch_modules().items():
            source = network if name == "transformer" else module  # the rest: TACR's critics
            modules[name].load_state_dict(source.state_dict())
        return folded

    def inner_create_impl(self, observation_shape: Shape, action_size: int) -> None:
        """Build network, optimizer and implementation; d3rlpy calls it."""
        network = self._build_network(observation_shape, action_size)
        network.backbone.theta_as_tensor = self._compiles
        network.to(self._device)
        self._impl = self._build_impl(network, observation_shape, action_size)
        self._impl.watch = TransformerWatch(self, self._config.monitor_every)
        if self._enable_ddp:
            distribute(self)

    @property
    def spike_monitor(self) -> TransformerWatch | None:
        """What the spike monitor has seen of the network; None before it is built."""
        return None if self._impl is None else self._impl.watch

    @property
    def _compiles(self) -> bool:
        return bool(self.compiled)  # type: ignore[attr-defined]  # d3rlpy's

    def _build_network(self, observation_shape: Shape, action_size: int) -> SpikingNetwork:
        raise NotImplementedError

    def _build_impl(self, module: nn.Module, observation_shape: Shape, action_size: int) -> Any:
        raise NotImplementedError


def position_encoding(config: Any, width: int) -> PositionEncoding:
    """d3rlpy's position encoding for a config, over tokens of that width."""
    rows = config.max_timestep + 2  # as d3rlpy: 0 is padding, and one to spare
    if config.position_encoding_type == PositionEncodingType.GLOBAL:
        return GlobalPositionEncoding(width, rows, config.context_size)
    return SimplePositionEncoding(width, rows)
