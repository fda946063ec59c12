"""Fills a report with what was played, timed and counted."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch

from policies.energy.constants import COSTS
from policies.kernels.choice import pick
from policies.report import Energy, Report, summarize
from policies.report.counting import count_batches
from policies.report.fill import made_by, network_record, not_simulated
from policies.report.machine import time_decisions
from policies.report.run import Run
from policies.report.verdict import compare
from sb3_spiking.report.simulation import simulate
from sb3_spiking.saved.arguments import Arguments
from sb3_spiking.saved.episodes import Visit, batches, decide
from sb3_spiking.saved.loading import Loaded, front_text, hidden_widths, size_text


@dataclass(frozen=True)
class Side:
    """One of the two networks.

    Attributes:
        model: it acts.
        path: its file; empty for a twin that was built here.
        run: its episodes; None for an untrained twin.
        visits: what its operations are counted on.
    """

    model: Loaded
    path: str
    run: Run | None
    visits: tuple[Visit, ...]


def fill_report(
    args: Arguments, env_id: str, spiking: Side, dense: Side, notes: list[str]
) -> Report:
    """Time and count both networks and put everything together."""
    sides, costs = (spiking, dense), COSTS[args.costs]
    counts = [count_batches(side.model.network, batches(side.visits)) for side in sides]
    latencies = time_decisions(
        [_decider(side.model, side.visits) for side in sides],
        [_runner(side) for side in sides],
        "model.predict of one observation",
    )
    simulation, sentence = _simulation(args, spiking)
    verdict = compare(counts[0], counts[1], costs, zeros_skipped=dense.run is not None)
    simulations = (simulation, not_simulated("a dense network has no spikes for the chip"))
    records = [
        network_record(
            f"{name} {side.model.algorithm}",
            f"{side.path or 'built here with the same net_arch'}, {size_text(side.model.network)}",
            side.model.network,
            count,
            side.run,
            latency,
            costs,
            zeros_skipped=dense.run is not None,
            simulation=simulated,
        )
        for name, side, count, latency, simulated in zip(
            ("spiking", "dense"), sides, counts, latencies, simulations, strict=True
        )
    ]
    return Report(
        title=f"Spiking {spiking.model.algorithm} on {env_id}",
        spiking=records[0],
        dense=records[1],
        costs=costs,
        verdict=verdict.sentences,
        caveats=verdict.caveats,
        notes=(*notes, *([sentence] if sentence else []), *_notes(spiking)),
        facts=_facts(args, env_id),
        break_even=verdict.numbers,
        alike=is_alike(spiking.model, dense.model),
    )


def is_alike(one: Loaded, other: Loaded) -> bool:
    """Whether two networks have the same extractor, LSTM and hidden layers."""
    networks = one.network, other.network
    return all(len({str(of(n)) for n in networks}) == 1 for of in (front_text, hidden_widths))


def _decider(model: Loaded, visits: tuple[Visit, ...]) -> Callable[[], object]:
    """Takes one decision a call, on one visited observation after the other."""
    turns = cycle(visits)
    return lambda: decide(model.policy, next(turns))


def _runner(side: Side) -> str:
    bodies = side.model.network.spiking_bodies()
    if not bodies:
        return "PyTorch"
    config = bodies[0].config
    kernel = pick(config.kernel, torch.device("cpu"))
    return f"kernel {kernel!r}, matmul {config.matmul!r}"


def _simulation(args: Arguments, spiking: Side) -> tuple[Energy, str]:
    if not args.loihi:
        return not_simulated("pass --loihi"), ""
    assert spiking.run is not None
    return simulate(spiking.model.network, spiking.visits, summarize(spiking.run.lengths))


def _notes(spiking: Side) -> list[str]:
    network = spiking.model.network
    config = network.spiking_bodies()[0].config
    memory = "LSTM, " if network.is_recurrent else ""
    notes = [
        f"Operations: what acts is counted (features extractor, {memory}encoder, spiking layers, "
        f"decoder), critics are not; T = {config.spike_steps} spike steps a decision; mean over "
        f"{len(spiking.visits)} of the decisions that were played. Biases, neuron updates, "
        "activation functions, the encoder's exponential and its generator of spikes are left out; "
        "batch norms are folded into the linear layers beside them.",
    ]
    if config.encoder.kind == "poisson":
        notes.append("The Poisson encoder does not draw here: decisions are deterministic.")
    return notes


def _facts(args: Arguments, env_id: str) -> dict[str, str]:
    last = args.seed + args.episodes - 1
    episodes = f"{args.episodes} episodes, seeds {args.seed} to {last}, deterministic actions"
    return {
        "subtitle": f"{args.model.name}; {episodes}",
        "model": str(args.model),
        "environment": f"{env_id}, {args.env_kwargs}" if args.env_kwargs else env_id,
        "episodes": episodes,
        **made_by("stable-baselines3", "sb3-contrib"),
    }
