"""Return against counted energy of a decision: spiking and dense actors of falling size.

    python -m benchmarks.energy_curve --costs
    python -m benchmarks.energy_curve --minutes 170 --jobs 2 [--env Hopper-v4]
    python -m benchmarks.energy_curve --table --png docs/images/energy_curve.png

--costs prints what each actor costs untrained and at assumed firing rates, and trains nothing. All
actors train with TD3's settings of zoo_configs/td3.yml for the environment, the same critics and
the same steps. Operations are counted on observations of the last policy's own 20 episodes, with
normalizer, encoder and decoder charged, at 45 nm float32's 4.6 pJ a multiply-accumulate and 0.9 pJ
an accumulate: all products of real numbers; with zeros skipped (behind a dense actor's ReLUs); and,
since counting rules leave them out, with the spiking actor's exponentials and membranes on top.
The goal is a spiking actor with 95 % of the largest dense actor's return at 22 % of the energy of
the smallest dense actor with 95 %.

A training that is done is skipped, and one that was stopped goes on; --list says how far each is.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from torch import Tensor

from benchmarks.energy import number, table
from benchmarks.studies import goal
from benchmarks.studies.energy_actors import ACTORS, DENSE, Actor, Cost, cost
from benchmarks.studies.lists import add_options, read, show, work_through
from benchmarks.studies.measure import measured
from benchmarks.studies.runs import Training

# Firing rates of hidden and output neurons for costs on paper.
RATES = (0.2, 0.3, 0.4)
RANDOM_STEPS = 2_000


def trainings(args: argparse.Namespace) -> list[Training]:
    """Seeds first: a stopped list has all actors of a seed."""
    return [
        Training(
            name=actor.name,
            env=args.env,
            steps=args.steps,
            seed=seed,
            config=args.config,
            policy_kwargs=actor.policy_kwargs(),
            callbacks=actor.callbacks(),
            inherits=False,
            dense=actor.spiking is None,
        )
        for seed in args.seeds
        for actor in args.actors
    ]


def measure(training: Training, run: Path) -> dict[str, Any]:
    """What is kept of a training."""
    return measured(training, run)[0]


def random_observations(env_id: str, steps: int = RANDOM_STEPS) -> tuple[Tensor, int]:
    """Observations of random actions, [steps, obs_dim], and the number of actions.

    Raises:
        ValueError: if there is no such environment, or its observations or actions are no vectors.
    """
    try:
        env: Any = gymnasium.make(env_id)
    except gymnasium.error.Error as error:
        raise ValueError(
            f"--env must be an environment of Gymnasium, got {env_id!r}: {error}"
        ) from error
    for space in (env.observation_space, env.action_space):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(
                f"--env must have vectors to see and to act with, {env_id} has {space}"
            )
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    seen = []
    for _ in range(steps):
        seen.append(np.asarray(obs, np.float32))
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            obs, _ = env.reset()
    env.close()
    return torch.from_numpy(np.stack(seen)), int(env.action_space.shape[0])


def cost_tables(costs: Sequence[Cost], rates: Sequence[float] = RATES) -> str:
    """Operations of each actor, and spiking actors' shares of each dense one's energy."""
    rows = [
        (
            found.actor.name,
            number(found.counted.with_zeros().multiply_accumulates),
            number(found.counted.accumulates),
            "" if found.encoder_rate is None else f"{found.encoder_rate:.3f}",
            " ".join(f"{rate:.2f}" for rate in found.hidden_rate),
            number(found.counted.with_zeros().energy_nj, 2),
            number(found.counted.energy_nj, 2),
            *(("",) * len(rates) if found.encoder_rate is None else _prices(found, rates)),
        )
        for found in costs
    ]
    head = (
        "actor, untrained", "multiply-accumulates", "accumulates", "encoder's rate", "other rates",
        "nJ", "nJ, zeros skipped", *(f"nJ at {rate:g}" for rate in rates),
    )  # fmt: skip
    spiking = [found for found in costs if found.encoder_rate is not None]
    dense = [found for found in costs if found.encoder_rate is None]
    ways = ("all products", "zeros skipped")
    shares = [_shares(title, spiking, dense, rates) for title in ways]
    return "\n\n".join([table(head, rows), *shares])


def _prices(found: Cost, rates: Sequence[float]) -> list[str]:
    return [number(found.assumed[rate], 2) for rate in rates]


def _shares(
    charge: str, spiking: Sequence[Cost], dense: Sequence[Cost], rates: Sequence[float]
) -> str:
    """Energy at the assumed rates over each dense actor's; within the goal in bold."""
    rows = []
    for found in spiking:
        cells = []
        for other in dense:
            count = other.counted if charge == "zeros skipped" else other.counted.with_zeros()
            shares = (found.assumed[rate] / count.energy_nj for rate in rates)
            cells.append(" ".join(_share(share) for share in shares))
        rows.append((found.actor.name, *cells))
    at = ", ".join(f"{rate:g}" for rate in rates)
    head = (f"% of, at rates {at}; {charge}", *(other.actor.name for other in dense))
    return table(head, rows)


def _share(share: float) -> str:
    text = f"{100.0 * share:.0f}"
    return f"**{text}**" if share <= goal.SHARE else text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.energy_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Any = parser.add_argument
    add_options(parser, env="HalfCheetah-v4", steps=100_000, out="runs/energy_curve")
    add("--actors", nargs="+", choices=list(ACTORS), default=list(ACTORS), metavar="NAME")
    add(
        "--variant",
        nargs=2,
        action="append",
        default=[],
        metavar=("SUFFIX", "JSON"),
        help="each spiking actor once more with further policy_kwargs, for instance "
        "--variant p1 '{\"synops_penalty\": 0.01}' adds direct-t3-p1 and so on",
    )
    add("--costs", action="store_true", help="print what actors cost untrained, and train nothing")
    add("--png", type=Path, help="draw the curve into this file")
    args = parser.parse_args(arguments)
    chosen = [ACTORS[name] for name in args.actors]
    try:
        args.actors = with_variants(chosen, args.variant)
    except (ValueError, TypeError) as error:
        parser.error(f"--variant: {error}")
    return args


def with_variants(actors: Sequence[Actor], variants: Sequence[tuple[str, str]]) -> list[Actor]:
    """Actors, and the spiking ones once more for each (suffix, JSON object of policy_kwargs).

    Raises:
        ValueError: if a text is no JSON object, an option has a value that it cannot have, or two
            actors would have one name.
        TypeError: if an option is unknown or of the wrong type.
    """
    found = list(actors)
    for suffix, text in variants:
        further = json.loads(text)
        if not isinstance(further, dict):
            raise ValueError(f"policy_kwargs must be a JSON object, got {text!r}")
        more = [actor.variant(suffix, further) for actor in actors if actor not in DENSE]
        for actor in more:
            actor.options()  # checks them
        found += more
    names = [actor.name for actor in dict.fromkeys(found)]
    if len(set(names)) < len(names):
        raise ValueError(f"each must have a suffix of its own, got the actors {', '.join(names)}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print costs, or train, list or print."""
    args = parse(arguments)
    if args.costs:
        obs, actions = random_observations(args.env)
        print(cost_tables([cost(actor, obs, actions, RATES) for actor in args.actors]))
        return
    todo = trainings(args)
    if args.list:
        show(todo, args.out)
        return
    if not args.table and not work_through(todo, args, measure, "benchmarks.energy_curve"):
        return
    found = goal.points(read(todo, args.out))
    done = {point.name for point in found}
    missing = [name for name in dict.fromkeys(one.name for one in todo) if name not in done]
    print(goal.markdown(found, missing))
    if args.png is None:
        return
    if not args.table and _reference_to_come(todo, found):
        print(f"no {args.png} yet: it needs {goal.FULL}; the same command goes on")
        return
    goal.draw(found, args.env, args.png, missing)


def _reference_to_come(todo: Sequence[Training], found: Sequence[goal.Point]) -> bool:
    """Whether the list has the actor that ratios refer to, and none of its trainings is done."""
    return any(training.name == goal.FULL for training in todo) and all(
        point.name != goal.FULL for point in found
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
