"""Puts what was played, timed and counted of one network into its record."""

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from torch import nn

from policies.energy.constants import OperationCosts
from policies.energy.count import OperationCount
from policies.energy.metrics import size_of
from policies.report.counting import counted_energies, layer_records
from policies.report.machine import machine_energy, no_machine_energy
from policies.report.records import Absent, Energy, Latency, NetworkRecord
from policies.report.run import Run
from policies.report.statistics import Summary, summarize

UNTRAINED = "not known: train one and pass it with --dense"
SIMULATED = "spiking layers on Loihi"


def network_record(
    title: str,
    source: str,
    network: nn.Module,
    count: OperationCount,
    run: Run | None,
    latency: Latency,
    costs: OperationCosts,
    *,
    zeros_skipped: bool,
    simulation: Energy,
) -> NetworkRecord:
    """The record of a network.

    Args:
        title: for headings.
        source: its file, or how it was made.
        network: the part that acts.
        count: of a decision.
        run: its episodes; None for an untrained twin.
        latency: of a decision.
        costs: energy of an operation.
        zeros_skipped: whether products with a 0 among real numbers are left out: the same for both
            networks of a page, and False if one of them is untrained.
        simulation: its simulated energy, or why there is none.
    """
    returns: Summary | Absent = Absent(UNTRAINED)
    lengths: Summary | Absent = Absent(UNTRAINED)
    machine = no_machine_energy("an untrained network played no episodes")
    if run is not None:
        returns, lengths = summarize(run.returns), summarize(run.lengths)
        decisions, episodes = round(sum(run.lengths)), len(run.lengths)
        machine = machine_energy(run.reading, run.estimate, decisions, episodes, run.seconds)
    trained = run is not None
    layers = layer_records(count, zeros_skipped=zeros_skipped)
    counted = counted_energies(count, costs, lengths, trained=trained, zeros_skipped=zeros_skipped)
    parameters, footprint = size_of(network)
    return NetworkRecord(
        title=title if trained else f"{title}, untrained",
        source=source,
        returns=returns,
        lengths=lengths,
        latency=latency,
        parameters=parameters,
        footprint=footprint,
        layers=layers,
        zeros_skipped=zeros_skipped,
        energies=(*counted, simulation, *machine),
        uncounted=count.uncounted,
    )


def not_simulated(why: str) -> Energy:
    """The row of a network that was not simulated."""
    absent = Absent(f"not simulated: {why}")
    return Energy("simulated", SIMULATED, absent, absent)


def made_by(*packages: str) -> dict[str, str]:
    """Versions of installed packages, and the time."""
    found = []
    for name in ("spiking-policies", *packages, "gymnasium", "torch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # not needed for this report
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"versions": ", ".join(found), "made": made}
