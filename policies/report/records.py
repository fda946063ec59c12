"""The numbers of a report: of a spiking network, of the dense one beside it, and of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from policies.energy.constants import OperationCosts
from policies.energy.figures import Figure, Kind
from policies.report.statistics import Summary


@dataclass(frozen=True)
class Absent:
    """A number that is not known, and why."""

    why: str

    def __post_init__(self) -> None:
        """Check the reason."""
        if not self.why:
            raise ValueError("why must say what is missing, got an empty text")


@dataclass(frozen=True)
class LayerRecord:
    """Operations of a layer in one decision, mean over the inputs that were counted.

    Attributes:
        name: of the module.
        accumulates: additions of a weight, for inputs in {0, 1}.
        multiply_accumulates: for any other input.
        dense: all products of the layer, zeros included.
        firing_rate: spikes per neuron and spike step, [0, 1]; None where nothing spikes.
        kind: "linear", "encoder", "decoder", "attention", "norm", "neurons" or "other".
    """

    name: str
    accumulates: float
    multiply_accumulates: float
    dense: float
    firing_rate: float | None = None
    kind: str = "other"

    def energy_nj(self, costs: OperationCosts) -> float:
        """Energy of its counted operations, nJ."""
        return costs.energy_nj(self.accumulates, self.multiply_accumulates)


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one decision: median and quartiles, and in a few words what ran it."""

    median: Figure
    low: Figure
    high: Figure
    runner: str = ""


@dataclass(frozen=True)
class Energy:
    """Energy known in one way, for one decision and for one episode.

    Attributes:
        kind: how it is known; rows of different kinds never add up.
        label: what it covers, for instance "zeros skipped".
        decision: of one decision, or why not.
        episode: of one episode, or why not.

    Raises:
        ValueError: if a figure is of another kind.
    """

    kind: Kind
    label: str
    decision: Figure | Absent
    episode: Figure | Absent

    def __post_init__(self) -> None:
        """Check that kinds do not mix."""
        for figure in (self.decision, self.episode):
            if isinstance(figure, Figure) and figure.kind != self.kind:
                raise ValueError(
                    f"{self.label} is {self.kind}, got a figure that is {figure.kind}; give each "
                    "kind a row of its own"
                )


@dataclass(frozen=True)
class NetworkRecord:
    """What is known of one network.

    Attributes:
        title: for headings: "spiking TD3".
        source: the file, or how it was made.
        returns: return of each episode, or why there are none.
        lengths: decisions of each episode.
        latency: of one decision.
        parameters: NeuroBench's ParameterCount, of the acting network.
        footprint: NeuroBench's Footprint: bytes of parameters and buffers.
        layers: in data-flow order, encoder and decoder among them.
        zeros_skipped: whether products with a zero among real numbers are left out of the counts;
            the same in both networks of a report, and not so if one is untrained: its zeros mean
            nothing.
        energies: rows that share kind and label in both networks compare; either may have more.
        uncounted: modules that no counting rule covers, as "name (type)".
    """

    title: str
    source: str
    returns: Summary | Absent
    lengths: Summary | Absent
    latency: Latency
    parameters: int
    footprint: int
    layers: tuple[LayerRecord, ...]
    zeros_skipped: bool
    energies: tuple[Energy, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def accumulates(self) -> float:
        """Accumulates of a decision."""
        return sum(layer.accumulates for layer in self.layers)

    @property
    def multiply_accumulates(self) -> float:
        """Multiply-accumulates of a decision."""
        return sum(layer.multiply_accumulates for layer in self.layers)

    @property
    def dense(self) -> float:
        """All products of a decision, zeros included."""
        return sum(layer.dense for layer in self.layers)

    def counted(self) -> Figure | None:
        """Counted energy of a decision; its first counted row."""
        for energy in self.energies:
            if energy.kind == "counted" and isinstance(energy.decision, Figure):
                return energy.decision
        return None


@dataclass(frozen=True)
class Report:
    """A spiking network beside the dense one of the same size.

    Attributes:
        title: heading of the page.
        spiking: the network that the page is about.
        dense: its fair twin.
        costs: energy of an operation that counts were multiplied with.
        verdict: sentences on what the comparison says, the break-even rate among them.
        caveats: what the numbers do not say.
        notes: assumptions that were made, and how to override them.
        facts: how it was made: files, environment, seeds, versions.
        break_even: its numbers by name.
        alike: whether the dense network has the same hidden layers as the spiking one.
    """

    title: str
    spiking: NetworkRecord
    dense: NetworkRecord
    costs: OperationCosts
    verdict: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    break_even: Mapping[str, Any] = field(default_factory=dict)
    alike: bool = True

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values; a figure is {value, unit, kind, method}."""
        content: dict[str, Any] = _plain(self)
        for name, network in (("spiking", self.spiking), ("dense", self.dense)):
            totals = ("accumulates", "multiply_accumulates", "dense")
            content[name]["totals"] = {total: getattr(network, total) for total in totals}
        return content


def _plain(value: Any) -> Any:
    if isinstance(value, Absent):
        return {"absent": value.why}
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
