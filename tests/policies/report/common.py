"""A small report with a number of every kind."""

from dataclasses import replace

from policies.energy import COSTS, Figure
from policies.energy.figures import Kind
from policies.report import (
    Absent,
    Energy,
    Latency,
    LayerRecord,
    NetworkRecord,
    Report,
    summarize,
)


def figure(value: float, unit: str = "nJ", kind: Kind = "counted") -> Figure:
    return Figure(value, unit, kind, f"{kind} here")


def latency(us: float) -> Latency:
    low, median, high = (figure(us + step, "us", "measured") for step in (-1.0, 0.0, 1.0))
    return Latency(median, low, high, "kernel 'numba'")


LAYERS = (
    LayerRecord("encoder", 0.0, 20.0, 20.0, 0.1, "encoder"),
    LayerRecord("linears.0", 100.0, 0.0, 400.0, None, "linear"),
    LayerRecord("neurons.0", 0.0, 0.0, 0.0, 0.25, "neurons"),
    LayerRecord("decoder", 0.0, 2.0, 4.0, None, "decoder"),
)
DENSE_LAYERS = (
    LayerRecord("0", 0.0, 30.0, 40.0, None, "linear"),
    LayerRecord("2", 0.0, 20.0, 40.0, None, "linear"),
)


def network(
    title: str = "spiking net", returns: tuple[float, ...] = (1.0, 2.0, 3.0)
) -> NetworkRecord:
    nothing = Absent("not measured: no counters here")
    return NetworkRecord(
        title=title,
        source="net.zip",
        returns=summarize(returns),
        lengths=summarize((10.0, 20.0, 30.0)),
        latency=latency(50.0),
        parameters=1234,
        footprint=2048,
        layers=LAYERS,
        zeros_skipped=True,
        energies=(
            Energy("counted", "zeros skipped", figure(0.1912), figure(3.824)),
            Energy(
                "simulated", "chip", figure(7.0, kind="simulated"), figure(140.0, kind="simulated")
            ),
            Energy("measured", "whole machine", nothing, nothing),
        ),
    )


def report() -> Report:
    dense = replace(
        network("dense net", (4.0, 5.0, 6.0)),
        layers=DENSE_LAYERS,
        source="dense.zip",
        energies=(
            Energy("counted", "zeros skipped", figure(0.23), figure(4.6)),
            Energy("counted", "all products", figure(0.368), figure(7.36)),
        ),
    )
    return Report(
        title="Net on World-v0",
        spiking=network(),
        dense=dense,
        costs=COSTS["45nm-float32"],
        verdict=("It costs less.",),
        caveats=("Memory is left out.",),
        notes=("Something was assumed.",),
        facts={"subtitle": "net.zip; 3 episodes", "model": "net.zip"},
        break_even={"energy ratio": {"all products": 0.52}},
    )


def untrained() -> Report:
    made = report()
    nothing = Absent("not known: train one")
    dense = replace(
        made.dense,
        returns=nothing,
        lengths=nothing,
        zeros_skipped=False,
        energies=(Energy("counted", "all products", figure(0.368), nothing),),
    )
    return replace(made, dense=dense)
