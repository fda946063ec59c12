"""Simulated energy of a population actor's decisions on a Loihi chip, by SANA-FE's model of it.

SANA-FE (an optional dependency, GPL-3.0, run as a process of its own) charges each event on the
chip with the energy and time that Intel published for it. It is given the encoder's spikes and the
weights, and computes the layers' spikes by itself: `spike_mismatches` says where they differ from
torch's, so that the energy is that of this network and not of one like it.

Source: Boyle et al. 2025 (SANA-FE); Davies et al. 2018 (Loihi).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.actor import PopulationBody
from policies.checks import check_features
from policies.config import check_count, check_range
from policies.energy.figures import Figure
from policies.energy.loihi_network import ChipNetwork, chip_network, spike_trains
from policies.energy.loihi_process import (
    Decision,
    LoihiTimeoutError,
    LoihiWorkerError,
    check_installed,
    run_worker,
)

__all__ = ["LoihiResult", "LoihiTimeoutError", "LoihiWorkerError", "simulate_on_loihi"]

# Share of spikes that may differ before the result warns.
TOLERATED = 1e-3


@dataclass(frozen=True)
class LoihiResult:
    """What SANA-FE says of an actor's decisions; numbers are means a decision unless said.

    Attributes:
        energy: nJ, "total" and its parts "synapse" (weights fetched and added), "soma" (neurons
            updated, spikes) and "network" (messages between cores).
        chip_time: us from the first spike step to the last.
        spikes: of the encoder and of each layer of neurons, by module name, in the T spike steps.
        late_spikes: of layers that run on until the last one has done its T steps; not used, but
            charged.
        synaptic_events: weights fetched, with those of biases and of late spikes; what is left
            without these is the accumulates that `count_operations` counts.
        bias_events: those of biases among them.
        late_events: those of late spikes among them.
        spike_mismatches: neuron-steps, in all decisions, where SANA-FE and torch differ.
        torch_spikes: all spikes of torch's layers in all decisions.
        decisions: how many were simulated.
        cores: of the chip that were used, with those that hold the inputs.
        warning: what makes the figures doubtful, or None.
    """

    energy: dict[str, Figure]
    chip_time: Figure
    spikes: dict[str, float]
    late_spikes: float
    synaptic_events: float
    bias_events: float
    late_events: float
    spike_mismatches: int
    torch_spikes: int
    decisions: int
    cores: int
    warning: str | None


def simulate_on_loihi(
    actor: PopulationBody,
    observations: Tensor,
    *,
    decisions: int = 32,
    timeout: float = 300.0,
    deterministic: bool = False,
) -> LoihiResult:
    """Simulate an actor's decisions on one Loihi chip.

    The encoder and the decoder run on the host. The chip starts a process and a model of all its
    cores, which takes some seconds; a decision takes milliseconds.

    Args:
        actor: the network; of a Stable-Baselines3 model `model.actor.mu`.
        observations: [B, obs_dim] as the actor takes them.
        decisions: how many of them are simulated: if there are more, that many evenly spaced.
        timeout: s, for SANA-FE's process.
        deterministic: a Poisson encoder does not draw, as in a deterministic `predict`.

    Returns:
        means over the decisions.

    Raises:
        ImportError: if SANA-FE is not installed.
        TypeError: if the actor or the observations are of another kind.
        ValueError: if the encoder is analog, the network is too large for the chip, a number is NaN
            or infinite, or an argument is out of range.
        LoihiTimeoutError: if the simulation takes longer than timeout.
        LoihiWorkerError: if it fails.
    """
    check_installed()
    rows = _checked(actor, observations, decisions, timeout)
    network = chip_network(actor)
    found = spike_trains(actor, rows, deterministic=deterministic)
    trains = [_by_decision(train) for train in found]
    arrays: dict[str, NDArray[np.generic]] = {**network.arrays, "spikes": trains[0]}
    version, runs = run_worker(network.header, arrays, timeout)
    return _result(network, trains, version, runs)


def _checked(actor: PopulationBody, observations: Tensor, decisions: int, timeout: float) -> Tensor:
    """The observations to simulate."""
    if not isinstance(actor, PopulationBody):
        raise TypeError(
            "actor must be a PopulationActor (of a Stable-Baselines3 model: model.actor.mu), got "
            f"{type(actor).__name__}"
        )
    if actor.config.encoder.kind == "analog":
        raise ValueError(
            "the actor's encoder is 'analog': its first layer takes real numbers, which no spike "
            "carries to the chip; use encoder 'deterministic' or 'poisson'"
        )
    check_count("decisions", decisions)
    check_range("timeout", timeout, 0.0, open_low=True)
    if not isinstance(observations, Tensor):
        raise TypeError(f"observations must be a tensor, got {type(observations).__name__}")
    check_features("observations", observations, actor.encoder.obs_dim)
    if len(observations) == 0:
        raise ValueError("observations must hold at least one row, got none")
    count = min(decisions, len(observations))
    picked = torch.arange(count, device=observations.device) * len(observations) // count
    return observations.detach()[picked]


def _by_decision(train: Tensor) -> NDArray[np.uint8]:
    """[T, B, N] -> [B, T, N]."""
    return train.transpose(0, 1).to("cpu", torch.uint8).contiguous().numpy()


def _result(
    network: ChipNetwork,
    trains: Sequence[NDArray[np.uint8]],
    version: str,
    runs: Sequence[Decision],
) -> LoihiResult:
    steps, count = network.header["spike_steps"], len(runs)
    used: list[NDArray[np.bool_] | NDArray[np.uint8]] = [trains[0]]
    mismatches, late = 0, 0
    for index, expected in enumerate(trains[1:]):
        simulated = np.stack([run.spikes[index] for run in runs])  # [D, T + layers, N]
        start = index + 1  # a step behind the layer before it
        used.append(simulated[:, start : start + steps])
        mismatches += int((used[-1] != expected).sum() + simulated[:, :start].sum())
        late += int(simulated[:, start + steps :].sum())
    layers = [f"mlp.neurons.{index}" for index in range(len(trains) - 1)]
    pairs = zip(used, network.fan_out, strict=False)  # nothing follows the last layer
    counted = sum(int((spikes.sum(axis=(0, 1)) * fan_out).sum()) for spikes, fan_out in pairs)
    events, biases = sum(run.synaptic_events for run in runs), network.bias_synapses * steps
    torch_spikes = sum(int(train.sum()) for train in trains[1:])
    method = _method(version, count, steps, len(layers), network.cores)
    return LoihiResult(
        energy=_energy(runs, method),
        chip_time=Figure(fmean(run.seconds for run in runs) * 1e6, "us", "simulated", method),
        spikes={
            name: float(spikes.sum()) / count
            for name, spikes in zip(["encoder", *layers], used, strict=True)
        },
        late_spikes=late / count,
        synaptic_events=events / count,
        bias_events=float(biases),
        late_events=(events - biases * count - counted) / count,
        spike_mismatches=mismatches,
        torch_spikes=torch_spikes,
        decisions=count,
        cores=network.cores,
        warning=_warning(mismatches, torch_spikes),
    )


def _energy(runs: Sequence[Decision], method: str) -> dict[str, Figure]:
    return {
        part: Figure(fmean(run.energy[part] for run in runs) * 1e9, "nJ", "simulated", method)
        for part in runs[0].energy
        # In this model of the chip dendrites cost nothing.
        if part != "dendrite" or any(run.energy[part] for run in runs)
    }


def _method(version: str, decisions: int, steps: int, layers: int, cores: int) -> str:
    return (
        f"SANA-FE {version}, its Loihi model (Davies et al. 2018), mean of {decisions} decisions "
        f"of {steps} spike steps and {layers} more for the layers on {cores} cores, inputs "
        "included; charged as well: biases, as synapses of one more neuron a core, and spikes of "
        "layers that run on until the last is done; not modelled: encoder and decoder "
        "(on the host), transfer between host and chip, static power; weights not rounded to 8 bits"
    )


def _warning(mismatches: int, spikes: int) -> str | None:
    if mismatches <= TOLERATED * spikes:
        return None
    return (
        f"SANA-FE and torch differ in {mismatches} neuron-steps of {spikes} spikes, more than "
        f"{TOLERATED:.1%}: these figures are of another network than the one in torch"
    )
