"""How fast and how far actors climb one trained critic: a policy's update, without the rest of RL.

    python -m benchmarks.online_learning --kinds dense --envs HalfCheetah-v4 --seeds 1
    python -m benchmarks.climbing --run runs/online/dense/HalfCheetah-v4_seed1
    python -m benchmarks.climbing --table --out docs/data/studies/climbing

The critic and the last 150,000 observations of a finished dense run are held fixed. Fresh actors
with two layers of 256 take TD3's step, uphill on the critic's value of their actions, in the same
batches of 100, with Adam. The table has that value on observations left out, less the value of the
run's own actor; the share of actions within 0.05 of their bounds; and the return of ten episodes.
What an actor can climb in so few steps is not what it learns in a run; what it cannot climb here
holds it back there. A result in --out is not made again; a folder holds those of one checkpoint.
"""

import argparse
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from stable_baselines3 import TD3
from torch import Tensor, nn

from benchmarks.cloning import COUNTING, SIZES, Dense, play
from benchmarks.commits import own_commit
from benchmarks.energy import table
from benchmarks.kept import check_settings, once, sha256
from benchmarks.studies.text import spread
from d3rlpy_spiking.cli.runs import read_json
from policies.actor import PopulationActor
from sb3_spiking.distributed.checkpoints import Checkpoints
from sb3_spiking.options import SpikingOptions

BATCH, RECENT, HELD_OUT, BOUND = 100, 150_000, 2_000, 0.95
MARKS = (100, 300, 1000)
MEMBRANE = {"decoder": "membrane"}
TEN = {**COUNTING, "spike_steps": 10}
# Keywords of policy_kwargs; None is the dense actor.
ACTORS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "popsan": {},
    "popsan, membrane": MEMBRANE,
    "batch_norm": {"batch_norm": True},
    "batch_norm, membrane": {"batch_norm": True, **MEMBRANE},
    "counting": COUNTING,
    "counting, membrane": {**COUNTING, **MEMBRANE},
    "counting, T 10": TEN,
    "counting, T 10, membrane": {**TEN, **MEMBRANE},
}


class Hill(NamedTuple):
    """What is climbed.

    Attributes:
        critic: the run's, frozen.
        obs: observations to climb on, [N, obs_dim].
        held_out: others, to measure on.
        top: value of the run's own actor there.
        actions: action dimensions.
        env_id: where to play.
        source: the checkpoint that it is of, and the digest of its model.
    """

    critic: Any
    obs: Tensor
    held_out: Tensor
    top: float
    actions: int
    env_id: str
    source: Mapping[str, str]

    def value(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The first critic's values, [B, 1]."""
        value: Tensor = self.critic.q1_forward(obs, actions)
        return value


def load(run: Path) -> Hill:
    """The newest checkpoint of a dense run, which holds its replay buffer.

    Raises:
        FileNotFoundError: if the run has none.
    """
    env_id = run.name.split("_seed")[0]
    folders = sorted(run.glob("td3/*/checkpoints"))
    checkpoint = Checkpoints(folders[-1], env_id).newest() if folders else None
    if checkpoint is None:
        raise FileNotFoundError(
            f"no checkpoint under {run}; make one: python -m benchmarks.online_learning --kinds "
            f"dense --envs {env_id}"
        )
    model = TD3.load(checkpoint / "model.zip", device="cpu", buffer_size=1)
    Checkpoints.load_replay_buffer(model, checkpoint)
    buffer: Any = model.replay_buffer
    if buffer.full:
        raise ValueError(f"the replay buffer of {run} has begun again; take a shorter run")
    model.policy.set_training_mode(False)
    model.critic.requires_grad_(False)
    seen = torch.as_tensor(buffer.observations[: buffer.pos, 0], dtype=torch.float32)[-RECENT:]
    seen = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))]
    held_out = seen[:HELD_OUT]
    with torch.no_grad():
        top = float(model.critic.q1_forward(held_out, model.actor(held_out)).mean())
    actions = int(np.prod(model.action_space.shape or ()))
    source = {"checkpoint": checkpoint.name, "sha256": sha256(checkpoint / "model.zip")}
    return Hill(model.critic, seen[HELD_OUT:], held_out, top, actions, env_id, source)


def make(name: str, hill: Hill) -> nn.Module:
    """An actor that has seen some observations, as one has before TD3's first update."""
    options = ACTORS[name]
    if options is None:
        return Dense(hill.obs, hill.actions)
    config = SpikingOptions(**{"batch_norm": False, **options}).actor_config(list(SIZES))
    actor = PopulationActor(hill.obs.shape[1], hill.actions, config)
    with torch.no_grad():
        for chunk in hill.obs[:20_000].split(1_000):
            actor(chunk)
    return actor


def climb(name: str, rate: float, seed: int, hill: Hill) -> dict[str, Any]:
    """One actor: what it reached after each of MARKS steps, and its return at the end."""
    torch.manual_seed(seed)
    actor = make(name, hill)
    optimizer = torch.optim.Adam(actor.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(seed)
    below, at_bounds = [], []
    for step in range(1, MARKS[-1] + 1):
        actor.train()
        obs = hill.obs[torch.randint(0, len(hill.obs), (BATCH,), generator=generator)]
        loss = -hill.value(obs, actor(obs)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in MARKS:
            actor.eval()
            with torch.no_grad():
                actions = actor(hill.held_out)
                below.append(float(hill.value(hill.held_out, actions).mean()) - hill.top)
            at_bounds.append(float((actions.abs() > BOUND).float().mean()))
    return {
        "below": below,
        "at_bounds": at_bounds,
        "returns": play(actor, hill.env_id, scaled=True),
    }


def shared(args: argparse.Namespace, hill: Hill) -> dict[str, Any]:
    """What all results in a folder have in common, so that its table compares actors."""
    return {"run": args.run.name, "steps": MARKS[-1], **hill.source}


def listed(args: argparse.Namespace, hill: Hill) -> list[tuple[Path, dict[str, Any]]]:
    """The file of each actor, rate and seed, and what decides its content; seeds first."""
    return [
        (
            args.out / f"{name.replace(', ', '-').replace(' ', '_')}_{rate:g}_{seed}.json",
            {
                "actor": name, "options": ACTORS[name], "rate": rate, "seed": seed,
                **shared(args, hill),
            },
        )
        for seed in args.seeds
        for rate in args.rates
        for name in args.actors
    ]  # fmt: skip


def climbed(settings: Mapping[str, Any], hill: Hill) -> dict[str, Any]:
    """What becomes of one actor, rate and seed."""
    name, rate, seed = settings["actor"], settings["rate"], settings["seed"]
    found = climb(name, rate, seed, hill)
    print(f"{name}, {rate:g}, seed {seed}: {np.mean(found['returns']):,.0f}", flush=True)
    return {**settings, "top": hill.top, **found}


def markdown(out: Path) -> str:
    """What is done, as a table."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*.json")):
        entry = read_json(path)
        found.setdefault((entry["actor"], entry["rate"]), []).append(entry)
    rows = []
    for (name, rate), entries in sorted(
        found.items(), key=lambda item: (list(ACTORS).index(item[0][0]), item[0][1])
    ):
        below = np.mean([entry["below"] for entry in entries], axis=0)
        at_bounds = np.mean([entry["at_bounds"] for entry in entries], axis=0)
        returns = [float(np.mean(entry["returns"])) for entry in entries]
        rows.append(
            [
                *(name, f"{rate:g}", *(f"{value:.1f}" for value in below)),
                *(" / ".join(f"{100 * value:.0f}" for value in at_bounds), spread(returns, 0)),
            ]
        )
    marks = [f"value after {mark:,}" for mark in MARKS]
    return table(["actor", "rate", *marks, "at the bounds, %", "return"], rows)


def main() -> None:
    """Climb, play, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--run", type=Path, help="folder of a finished dense run")
    add("--actors", nargs="+", choices=list(ACTORS), default=list(ACTORS))
    add("--rates", type=float, nargs="+", default=[3e-4, 1e-3], help="Adam's learning rates")
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--out", type=Path, default=Path("runs/climbing"))
    add("--table", action="store_true", help="print what is kept in --out, and train nothing")
    args = parser.parse_args()
    if args.table:
        if not any(args.out.glob("*.json")):
            parser.error(f"nothing is done in {args.out}; start it without --table")
        print(markdown(args.out))
        return
    if args.run is None:
        parser.error("--run is missing: the folder of a finished dense run")
    own_commit()  # before anything long
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    try:
        hill = load(args.run)
        for path in args.out.glob("*.json"):
            check_settings(path, shared(args, hill))
        for path, settings in listed(args, hill):
            check_settings(path, settings)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for path, settings in listed(args, hill):
        once(path, settings, functools.partial(climbed, settings, hill))
    print(markdown(args.out))


if __name__ == "__main__":
    main()
