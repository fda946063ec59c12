"""`report`: plays, times and counts a transformer and its dense twin."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
from d3rlpy.algos import TransformerInput
from d3rlpy.constants import ActionSpace
from gymnasium import Env

from d3rlpy_spiking.cli.arguments import Arguments
from d3rlpy_spiking.cli.environments import Episodes, make_env
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.runs import load_algorithm, read_json
from d3rlpy_spiking.maze.env import ENV_ID
from d3rlpy_spiking.operations import count_operations
from d3rlpy_spiking.report.play import Stream, batches, decider, play
from d3rlpy_spiking.report.twin import network, size_text, spikes, untrained_twin
from policies.energy.constants import OperationCosts, costs_named
from policies.energy.count import OperationCount
from policies.kernels.choice import pick
from policies.report import Report, check_folder, save
from policies.report.counting import NORMS, mean_count
from policies.report.fill import made_by, network_record, not_simulated
from policies.report.machine import time_decisions
from policies.report.run import Run
from policies.report.verdict import compare

# A decision of a transformer takes milliseconds.
_ROUNDS, _WARM_UP = 100, 20
_MAZE_OPTIONS = ("seed", "n_mazes", "n_unseen", "size", "braid")


@dataclass(frozen=True)
class _Side:
    """One of the two networks; `run` is None for a twin that was built here."""

    algo: Any
    path: str
    run: Run | None
    contexts: list[TransformerInput]
    stream: Stream


def report(args: Arguments) -> None:
    """Print a report and write its files.

    Raises:
        UsageError: if models, environment and arguments do not fit each other.
    """
    costs = costs_named(args.costs)
    out = args.out or args.model.with_name(f"{args.model.stem}_report")
    notes: list[str] = []
    algo = _load(args.model, args.device)
    if not spikes(algo):
        raise UsageError(
            f"{args.model} holds a dense algorithm, {_name(algo)}; MODEL must be a spiking one, and"
            " a dense one can stand beside it with --dense"
        )
    env_id, options, target = _where(args, notes)
    _check(algo, args.model, env_id, target, options)
    if args.dense is None:
        twin, differences = untrained_twin(algo)
        notes += differences
    else:
        twin = _load_dense(args, algo, env_id, target, options)
        sizes = size_text(algo), size_text(twin)
        if sizes[0] != sizes[1]:
            notes.append(f"The dense network is not of the same size: {sizes[1]} ({sizes[0]}).")
    check_folder(out)
    env = _env(env_id, options)
    try:
        own = _Side(algo, str(args.model), *play(algo, env, target, args.episodes, args.seed))
        other = _Side(twin, "", None, own.contexts, own.stream)
        if args.dense is not None:
            other = _Side(twin, str(args.dense), *play(twin, env, target, args.episodes, args.seed))
    finally:
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
    made = _report(args, env_id, target, costs, own, other, notes)
    print(save(made, out), end="")
    print(f"\nwritten to {out}: report.md, report.json, report.html, report.png")


def _name(algo: Any) -> str:
    return type(algo).__name__


def _load(path: Path, device: str) -> Any:
    algo = load_algorithm(path, device)
    if not hasattr(algo, "as_stateful_wrapper"):
        raise UsageError(f"{path} must hold a transformer algorithm, got {_name(algo)}")
    return algo


def _load_dense(
    args: Arguments, algo: Any, env_id: str, target: float, options: dict[str, Any]
) -> Any:
    twin = _load(args.dense, args.device)
    if spikes(twin):
        raise UsageError(
            f"{args.dense} holds a spiking algorithm, {_name(twin)}; --dense takes a dense one, "
            "d3rlpy's Decision Transformer of the same size"
        )
    _check(twin, args.dense, env_id, target, options)
    return twin


def _where(args: Arguments, notes: list[str]) -> tuple[str, dict[str, Any], float]:
    """The environment's id, its arguments and the return to ask for."""
    if args.env is not None:
        if args.target_return is None:
            raise UsageError("--env needs --target-return, the return to ask the algorithm for")
        return args.env, {}, args.target_return
    if args.target_return is not None:
        raise UsageError("--target-return is for --env; in the maze every success returns 1")
    record = args.model.parent / "run.json"
    found = read_json(record).get("maze") if record.exists() else None
    if found is None:
        notes.append(
            f"No run.json beside {args.model.name} says which mazes it was trained on: these are "
            "the default ones."
        )
    options = {
        name: tuple(value) if isinstance(value, list) else value  # JSON knows no tuples
        for name, value in (found or {}).items()
        if name in _MAZE_OPTIONS
    }
    notes.append("Mazes: those of the run that training never saw; a return of 1 is a success.")
    return ENV_ID, {**options, "split": "mazes"}, 1.0


def _env(env_id: str, options: dict[str, Any]) -> Env[Any, Any]:
    if not options:
        return make_env(env_id)
    try:
        return gymnasium.make(env_id, **options)
    except (gymnasium.error.Error, ValueError, TypeError) as error:
        raise UsageError(f"the environment {env_id!r} cannot be made: {error}") from error


def _check(algo: Any, path: Path, env_id: str, target: float, options: dict[str, Any]) -> None:
    """Raise unless the algorithm fits the environment."""
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    shape = tuple(algo.impl.observation_shape)
    try:
        if not options:
            Episodes(env_id, target, 1, 0).check(shape, discrete, algo.impl.action_size)
            return
        env = _env(env_id, options)
        found = env.observation_space.shape
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
        if found != shape or not discrete:
            raise UsageError(
                f"the mazes have observations of shape {found} and discrete actions, the "
                f"algorithm is for {shape} and {'discrete' if discrete else 'continuous'} ones"
            )
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _count(side: _Side) -> OperationCount:
    counts = []
    for batch in batches(side.algo, side.contexts):
        counts.append((len(batch.masks), count_operations(side.algo, batch, NORMS)))
    return mean_count(counts)


def _report(
    args: Arguments,
    env_id: str,
    target: float,
    costs: OperationCosts,
    own: _Side,
    other: _Side,
    notes: list[str],
) -> Report:
    sides = (own, other)
    counts = [_count(side) for side in sides]
    latencies = time_decisions(
        [decider(side.algo, target, side.stream) for side in sides],
        [_runner(side) for side in sides],
        "as_stateful_wrapper's predict of one observation",
        rounds=_ROUNDS,
        warm_up=_WARM_UP,
    )
    verdict = compare(counts[0], counts[1], costs, zeros_skipped=other.run is not None)
    reasons = (
        "the chip's model takes population-coded actors",
        "a dense network has no spikes for the chip",
    )
    records = [
        network_record(
            f"{name} {_name(side.algo)}" if name == "dense" else _name(side.algo),
            f"{side.path or 'built here'}, {size_text(side.algo)}",
            network(side.algo),
            count,
            side.run,
            latency,
            costs,
            zeros_skipped=other.run is not None,
            simulation=not_simulated(reason),
        )
        for name, side, count, latency, reason in zip(
            ("spiking", "dense"), sides, counts, latencies, reasons, strict=True
        )
    ]
    episodes = f"{args.episodes} episodes, seeds {args.seed} to {args.seed + args.episodes - 1}"
    return Report(
        title=f"{_name(own.algo)} on {env_id}",
        spiking=records[0],
        dense=records[1],
        costs=costs,
        verdict=verdict.sentences,
        caveats=verdict.caveats,
        notes=(*notes, *_notes(own)),
        facts={
            "subtitle": f"{args.model.name}; {episodes}, target return {target:g}",
            "model": str(args.model),
            "environment": env_id,
            "episodes": episodes,
            **made_by("d3rlpy"),
        },
        break_even=verdict.numbers,
        alike=size_text(own.algo) == size_text(other.algo),
    )


def _runner(side: _Side) -> str:
    if not spikes(side.algo):
        return "PyTorch"
    kernel = pick(side.algo.config.kernel, torch.device(side.algo.impl.device))
    return f"kernel {kernel!r}"


def _notes(own: _Side) -> list[str]:
    config = own.algo.config
    full = bool(own.contexts) and own.contexts[0].length >= config.context_size
    contexts = "full contexts" if full else "contexts, padded (no episode filled one)"
    return [
        f"Operations: of one decision that runs the whole context of {config.context_size} steps "
        f"through the network, as d3rlpy's wrapper does; mean over {len(own.contexts)} {contexts} "
        f"of those that were played. T = {config.spike_steps} spike steps. Biases, neuron updates "
        "and activation functions are left out, batch norms folded into the linear layers beside "
        "them; critics are not counted."
    ]
