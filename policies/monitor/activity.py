"""What the parts of a spiking network did with a batch: plain numbers of layers, fields, readouts.

"Samples" are whatever stands between the spike steps and the neurons: observations [T, B, N] or
tokens [T, B, L, N].
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gradient:
    """How the surrogate of a layer's neurons passes gradients on.

    Attributes:
        reached: in how many (step, sample) a gradient arrives at each neuron's spikes, [N].
        passed: in how many of them one leaves for its input current, [N].
    """

    reached: Tensor
    passed: Tensor

    def share(self, neurons: Tensor | None = None) -> float:
        """Part of what arrives that is passed on, by all or some neurons, booleans [N]."""
        chosen = slice(None) if neurons is None else neurons
        return float(self.passed[chosen].sum() / self.reached[chosen].sum().clamp_min(1))


@dataclass(frozen=True)
class LayerActivity:
    """A layer of spiking neurons.

    Attributes:
        name: its module's name in the network that was probed.
        counts: spikes of each neuron in each sample over all spike steps, [S, N].
        steps: spike steps, T.
        threshold: v_threshold of its neurons.
        peak: highest membrane potential that each neuron would reach if it never fired, [N].
        fed: whether what its linear layer receives differs between samples at all.
        driven: whether its input currents do.
        gradient: how its surrogate passes gradients on; None if none arrives at its spikes.
        finite: whether all membrane potentials are.
    """

    name: str
    counts: Tensor
    steps: int
    threshold: float
    peak: Tensor
    fed: bool
    driven: bool
    gradient: Gradient | None
    finite: bool

    @property
    def rates(self) -> Tensor:
        """Spikes of each neuron per spike step, mean over samples, [N]."""
        return self.counts.mean(dim=0) / self.steps

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and spike step, in [0, 1]."""
        return float(self.rates.mean())

    @property
    def tells(self) -> bool:
        """Whether its spikes differ between samples at all."""
        return bool((self.counts.amax(dim=0) > self.counts.amin(dim=0)).any())

    @property
    def flow(self) -> float | None:
        """Share of (step, sample, neuron) with a gradient where the surrogate lets it pass."""
        return None if self.gradient is None else self.gradient.share()

    @property
    def silent_neurons(self) -> Tensor:
        """Which neurons no sample makes fire, booleans [N]."""
        return self.counts.amax(dim=0) == 0

    @property
    def dead(self) -> float:
        """Share of neurons that no sample makes fire."""
        return float(self.silent_neurons.float().mean())

    @property
    def saturated_neurons(self) -> Tensor:
        """Which neurons fire at every step, or all but one, whatever the sample, booleans [N].

        The first step may be silent in a healthy network: an encoder's integrator has to charge.
        """
        return self.counts.amin(dim=0) >= max(self.steps - 1, 1)

    @property
    def saturated(self) -> float:
        """Share of neurons that fire at every step, or all but one, whatever the sample."""
        return float(self.saturated_neurons.float().mean())


@dataclass(frozen=True)
class EncoderActivity:
    """A population encoder.

    Attributes:
        name: its module's name.
        firing_rate: spikes per neuron and spike step; None for an analog encoder.
        missed: share of samples of each observation dimension, [D], that no receptive field can
            turn into a spike, or that stand clipped at the edge of the fields' range.
        learned: whether the statistics in front of it have seen data (or none are needed).
        fed: whether the observations differ at all.
        tells: whether its spikes (or activations) do.
        steps: spike steps, T.
        spread: how far apart observations of one dimension are at most; normalized ones differ by
            several, unless all are of one moment.
    """

    name: str
    firing_rate: float | None
    missed: Tensor
    learned: bool
    fed: bool = True
    tells: bool = True
    steps: int = 1
    spread: float = 0.0

    @property
    def coverage(self) -> float:
        """Share of observed values inside the receptive fields, in [0, 1]."""
        return 1.0 - float(self.missed.mean())


@dataclass(frozen=True)
class ReadoutActivity:
    """A layer that reads values from spikes.

    Attributes:
        name: its module's name.
        response: how far each value moves between samples, [A], relative to what its input's
            movement would cause through weights of the initial size; infinite where that stands
            still.
        driven: whether its input differs between samples at all.
        finite: whether all values are.
        population: neurons that each value is read from.
        stuck: whether all actions stand at their bounds, whatever the sample.
    """

    name: str
    response: Tensor
    driven: bool
    finite: bool
    population: int = 128
    stuck: bool = False


@dataclass(frozen=True)
class NetworkActivity:
    """All parts of a network, in the order in which data flows through them.

    Attributes:
        encoders: population encoders.
        layers: layers of spiking neurons.
        readouts: population and value readouts.
        broken: names of parameters and buffers that hold NaN or infinity.
        failed: how the network refused to run, empty if it ran.
    """

    encoders: tuple[EncoderActivity, ...] = ()
    layers: tuple[LayerActivity, ...] = ()
    readouts: tuple[ReadoutActivity, ...] = ()
    broken: tuple[str, ...] = ()
    failed: str = ""

    @property
    def firing_rates(self) -> dict[str, float]:
        """Firing rate of each encoder and layer that spikes, by name."""
        rates = {e.name: e.firing_rate for e in self.encoders if e.firing_rate is not None}
        return {**rates, **{layer.name: layer.firing_rate for layer in self.layers}}
