"""A picture of an episode's spikes: one panel a layer, time to the right, neurons downwards."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policies.energy.count import evaluating
from policies.energy.layer_count import is_binary
from policies.neurons import LIF, CurrentLIF
from policies.population import PopulationEncoder

# Neurons of a layer that are drawn, evenly picked, and samples from the episode's start.
MAX_NEURONS = 128
MAX_SAMPLES = 200


@dataclass(frozen=True)
class Raster:
    """Spikes of one layer over an episode.

    Attributes:
        name: its module's name.
        spikes: [T * S, N], the T steps of a sample side by side; N are picked neurons.
        steps: spike steps, T.
        neurons: neurons of the layer, drawn or not.
    """

    name: str
    spikes: Tensor
    steps: int
    neurons: int


def record(network: nn.Module, run: Callable[[], Any]) -> list[Raster]:
    """Spikes of every encoder and layer while `run` makes one forward over an episode.

    Args:
        network: holds the layers.
        run: a forward through them on observations [S, ...] in the order of time; of networks on
            sequences, [1, S, ...].
    """
    rasters: list[Raster] = []
    handles = [
        module.register_forward_hook(_hook(rasters, name))
        for name, module in network.named_modules()
        if isinstance(module, PopulationEncoder | LIF | CurrentLIF)
    ]
    try:
        with evaluating(network), torch.random.fork_rng([]), torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return rasters


def _hook(rasters: list[Raster], name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        spikes = output if isinstance(module, PopulationEncoder) else output[0]
        if not is_binary(spikes):
            return
        steps, neurons = spikes.shape[0], spikes.shape[-1]
        samples = spikes.detach().flatten(1, -2)  # [T, S, N]
        picked = torch.linspace(0, neurons - 1, min(neurons, MAX_NEURONS)).long()
        chosen = samples.transpose(0, 1).flatten(0, 1)[:, picked].to(torch.bool).cpu()
        rasters.append(Raster(name, chosen, steps, neurons))

    return hook


def draw(rasters: list[Raster], title: str = "") -> Any:
    """The rasters as a matplotlib figure.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("drawing spikes needs matplotlib: pip install matplotlib") from error
    height = 1.0 + 1.3 * len(rasters)
    figure = figures.Figure(figsize=(9.0, height), layout="constrained")
    grid = figure.subplots(len(rasters), 1, squeeze=False)[:, 0]
    for axes, raster in zip(grid, rasters, strict=True):
        decisions = raster.spikes.shape[0] / raster.steps
        shown = raster.spikes.shape[1]
        axes.imshow(
            raster.spikes.T.numpy(),
            cmap="gray_r",
            aspect="auto",
            interpolation="nearest",
            vmin=0,
            vmax=1,
            extent=(0, decisions, shown, 0),
        )
        rate = float(raster.spikes.float().mean())
        count = f"{raster.neurons}" if shown == raster.neurons else f"{shown} of {raster.neurons}"
        axes.set_title(f"{raster.name}: {count} neurons, firing rate {rate:.2f}", fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.label_outer()
    grid[-1].set_xlabel(f"environment step, {rasters[-1].steps} spike steps each", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure
