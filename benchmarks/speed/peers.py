"""The same network in other libraries for spiking networks, each with its own neurons.

All share the encoder, the weights and the readout of `popsan_loop.Coded`. A library that is not
installed is left out, with the reason.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.popsan_loop import (
    I_DECAY,
    STEPS,
    THRESHOLD,
    V_DECAY,
    Coded,
    rectangle_spike,
)


class SpikingJellyActor(Coded):
    """SpikingJelly: CUBALIFNode, multi-step mode, backend torch; fires at v >= threshold.

    Its backends cupy and triton need CUDA, and this neuron has neither.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(obs_dim, action_dim, hidden)
        neuron: Any = import_module("spikingjelly.activation_based.neuron")
        self.functional: Any = import_module("spikingjelly.activation_based.functional")
        self.neurons = nn.ModuleList(
            neuron.CUBALIFNode(c_decay=I_DECAY, v_decay=V_DECAY, v_threshold=THRESHOLD)
            for _ in self.linears
        )
        self.functional.set_step_mode(self.neurons, "m")

    def spikes(self, obs: Tensor) -> Tensor:
        """Spikes of the output neurons, [T, B, action_dim * P]."""
        self.functional.reset_net(self.neurons)
        x = torch.stack(self.encode(obs))
        for linear, neuron in zip(self.linears, self.neurons, strict=True):
            x = neuron(linear(x))
        return x


class SnnTorchActor(Coded):
    """snnTorch: Synaptic with reset to zero, without delay, in a loop over spike steps."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(obs_dim, action_dim, hidden)
        snntorch: Any = import_module("snntorch")
        self.neurons = nn.ModuleList(
            snntorch.Synaptic(
                alpha=I_DECAY,
                beta=V_DECAY,
                threshold=THRESHOLD,
                # It hands over the distance to the threshold.
                spike_grad=lambda distance: rectangle_spike(distance + THRESHOLD),
                reset_mechanism="zero",
                reset_delay=False,
            )
            for _ in self.linears
        )

    def spikes(self, obs: Tensor) -> Tensor:
        """Spikes of the output neurons, [T, B, action_dim * P]."""
        zeros = self.zeros(len(obs))
        current, v = list(zeros), list(zeros)
        out = []
        for spike in self.encode(obs):
            for k, (linear, neuron) in enumerate(zip(self.linears, self.neurons, strict=True)):
                spike, current[k], v[k] = neuron(linear(spike), current[k], v[k])
            out.append(spike)
        return torch.stack(out)


class NorseActor(Coded):
    """norse: LIF over time, triangular surrogate; its membrane is a quarter of PopSAN's."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(obs_dim, action_dim, hidden)
        norse: Any = import_module("norse.torch")
        dt = 1e-3
        # v' = v + g (i - v) with g = 1 - v_decay: the input arrives times g, so the threshold does.
        gain = 1.0 - V_DECAY
        parameters = norse.LIFParameters(
            tau_syn_inv=torch.tensor((1.0 - I_DECAY) / dt),
            tau_mem_inv=torch.tensor(gain / dt),
            v_th=torch.tensor(gain * THRESHOLD),
            method="triangle",
            alpha=torch.tensor(1.0),
        )
        self.neurons = nn.ModuleList(norse.LIF(parameters, dt=dt) for _ in self.linears)

    def spikes(self, obs: Tensor) -> Tensor:
        """Spikes of the output neurons, [T, B, action_dim * P]."""
        x = torch.stack(self.encode(obs))
        for linear, neuron in zip(self.linears, self.neurons, strict=True):
            x, _ = neuron(linear(x))
        return x


def dense_actor(obs_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> nn.Module:
    """The ReLU network that SB3's TD3 would have."""
    sizes = (obs_dim, *hidden)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], action_dim), nn.Tanh())


PEERS: dict[str, tuple[str, Callable[..., Coded]]] = {
    "SpikingJelly": ("spikingjelly", SpikingJellyActor),
    "snnTorch": ("snntorch", SnnTorchActor),
    "norse": ("norse", NorseActor),
}


def missing(peer: str) -> str:
    """Why a peer cannot run here; empty if it can."""
    package, _ = PEERS[peer]
    return "" if find_spec(package) is not None else f"not installed (pip install {package})"


def agreement(ours: Tensor, theirs: Tensor) -> str:
    """How the output spikes [T, B, N] of two networks compare, in words."""
    differ = int((ours != theirs).sum())
    rates = f"rates {float(ours.mean()):.4f} and {float(theirs.mean()):.4f}"
    return f"{differ} of {ours.numel()} output spikes differ from ours ({rates}, {STEPS} steps)"
