"""How well spiking actors copy a dense one: what neurons and codes can represent, without RL.

    python -m benchmarks.cloning --dataset halfcheetah_medium_expert.npz --out runs/cloning
    python -m benchmarks.cloning --teacher MODEL.zip --env Walker2d-v4 --out runs/cloning_walker
    python -m benchmarks.cloning --table --out docs/data/studies/cloning

A dense actor (two layers of 256) is fitted to the expert's part of a dataset; or a trained TD3
policy acts, with normal noise of 0, 0.1 and 0.2 on its actions in turn. That is the teacher:
its actions are a function of the observation, without noise, that a dense network of its size can
have exactly. Each actor then learns to copy it by mean squared error on the same observations, in
the same batches, with Adam at 1e-3 and a fifth of that in the last quarter. The table has the error
on observations that were left out, over the actions' variance; and the return of ten episodes, in
which an actor meets what follows from its own errors. Reinforcement learning can adapt a policy to
its network, so this orders networks, it forecasts no return. A result in --out is not made again; a
folder holds those of one dataset and number of steps.
"""

import argparse
import functools
import itertools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Before numpy and torch start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import TD3
from torch import Tensor, nn

from benchmarks.commits import own_commit
from benchmarks.energy import table
from benchmarks.kept import check_settings, once, sha256
from benchmarks.offline_runs import SHARED
from benchmarks.studies.text import spread
from d3rlpy_spiking.cli.runs import read_json
from policies.actor import PopulationActor
from sb3_spiking.options import SpikingOptions

SIZES, BATCH, TEACHER_SEED, EPISODES = (256, 256), 100, 5, 10
# Decisions of a trained teacher, and the noise on its actions, by episodes in turn.
WATCHED, NOISES = 60_000, (0.0, 0.1, 0.2)
COUNTING: dict[str, Any] = {
    "neuron": "lif", "v_decay": 1.0, "reset_mode": "soft", "encoder_v_init": 0.5
}  # fmt: skip
# Keywords of policy_kwargs; None is the dense actor.
ACTORS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "popsan": {},
    "popsan, T 10": {"spike_steps": 10},
    "popsan, encoder_v_init 0.5": {"encoder_v_init": 0.5},
    "batch_norm": {"batch_norm": True},
    "counting": COUNTING,
    "counting, hard reset": {**COUNTING, "reset_mode": "hard"},
    "counting, batch_norm": {**COUNTING, "batch_norm": True},
    "counting, decoder_pop_size 20": {**COUNTING, "decoder_pop_size": 20},
    "counting, T 10": {**COUNTING, "spike_steps": 10},
    "counting, membrane": {**COUNTING, "decoder": "membrane"},
    "counting, T 10, membrane": {**COUNTING, "spike_steps": 10, "decoder": "membrane"},
    "counting, analog": {**COUNTING, "encoder_v_init": 0.0, "encoder": "analog"},
}


class Data(NamedTuple):
    """Observations [N, obs_dim], the actions to copy [N, A], and where the ones left out begin."""

    obs: Tensor
    actions: Tensor
    held_out: int


class Dense(nn.Module):
    """A dense actor of standardized observations."""

    def __init__(self, obs: Tensor, action_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = obs.shape[1]
        for size in SIZES:
            layers += [nn.Linear(n_in, size), nn.ReLU()]
            n_in = size
        self.layers = nn.Sequential(*layers, nn.Linear(n_in, action_dim), nn.Tanh())
        std = obs.std(dim=0)
        # An observation that never changes has none.
        self.mean, self.std = obs.mean(dim=0), torch.where(std > 0.0, std, 1.0)

    def forward(self, obs: Tensor) -> Tensor:
        """Actions [B, A]."""
        out: Tensor = self.layers((obs - self.mean) / self.std)
        return out


def make(name: str, data: Data) -> nn.Module:
    """An actor."""
    options = ACTORS[name]
    n_in, n_out = data.obs.shape[1], data.actions.shape[1]
    if options is None:
        return Dense(data.obs[: data.held_out], n_out)
    config = SpikingOptions(**{"batch_norm": False, **options}).actor_config(list(SIZES))
    return PopulationActor(n_in, n_out, config)


def fit(actor: nn.Module, data: Data, steps: int, seed: int) -> float:
    """Train an actor; gives the error on what was left out, over the actions' variance."""
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    actor.train()
    for step in range(steps):
        if step == steps * 3 // 4:
            for group in optimizer.param_groups:
                group["lr"] *= 0.2
        rows = torch.randint(0, data.held_out, (BATCH,), generator=generator)
        loss = nn.functional.mse_loss(actor(data.obs[rows]), data.actions[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    actor.eval()
    with torch.no_grad():
        rest = data.actions[data.held_out :]
        error = nn.functional.mse_loss(actor(data.obs[data.held_out :]), rest)
    return float(error / rest.var(dim=0).mean())


def play(actor: nn.Module, env_id: str, *, scaled: bool = False) -> list[float]:
    """Returns of episodes side by side.

    Args:
        actor: gives actions in [-1, 1].
        env_id: the environment.
        scaled: -1 and 1 stand for the bounds of its actions, as for Stable-Baselines3's actors.
    """
    envs = [gymnasium.make(env_id) for _ in range(EPISODES)]
    space: Any = envs[0].action_space
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    obs = [env.reset(seed=100 + i)[0] for i, env in enumerate(envs)]
    returns, going = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while going.any():
        with torch.no_grad():
            actions: NDArray[Any] = actor(torch.tensor(np.stack(obs), dtype=torch.float32)).numpy()
        if scaled:
            actions = middle + half * actions
        for i in np.flatnonzero(going):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += float(reward)
            going[i] = not (terminated or truncated)
    return [round(value, 1) for value in returns]


def load(path: Path, steps: int) -> tuple[Data, str]:
    """The observations of the expert's part with the teacher's actions, and the environment.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it does not say which steps are an expert's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no dataset {path}; name one with --dataset")
    with np.load(path) as arrays:
        missing = {"observations", "actions", "is_expert", "env_id"} - {*arrays}
        if missing:
            raise ValueError(
                f"--dataset must hold {', '.join(sorted(missing))} besides, {path} has "
                f"{', '.join(sorted(arrays))}; of a trained policy's file use --teacher"
            )
        expert = arrays["is_expert"]
        obs = torch.as_tensor(arrays["observations"][expert], dtype=torch.float32)
        actions = torch.as_tensor(arrays["actions"][expert], dtype=torch.float32)
        env_id = str(arrays["env_id"])
    held_out = len(obs) * 9 // 10
    torch.manual_seed(TEACHER_SEED)
    teacher = Dense(obs[:held_out], actions.shape[1])
    fit(teacher, Data(obs, actions, held_out), 4 * steps, TEACHER_SEED)
    with torch.no_grad():
        return Data(obs, teacher(obs), held_out), env_id


def watch(path: Path, env_id: str) -> Data:
    """The observations that a TD3 policy meets, and its actions there; episodes stay together.

    Raises:
        ValueError: if its observations and actions are not the environment's, or these are not in
            [-1, 1].
    """
    model = TD3.load(path, device="cpu", buffer_size=1)
    env: Any = gymnasium.make(env_id)
    ours = (env.observation_space, env.action_space)
    theirs = (model.observation_space, model.action_space)
    if ours != theirs:
        raise ValueError(f"--env must be the teacher's, of {theirs}, got {env_id} of {ours}")
    if (env.action_space.low != -1.0).any() or (env.action_space.high != 1.0).any():
        raise ValueError(
            f"--env must have actions in [-1, 1], as the actors that copy it have, got {env_id} "
            f"with {env.action_space}"
        )
    rng = np.random.default_rng(TEACHER_SEED)
    seen: list[NDArray[np.float32]] = []
    actions: list[NDArray[np.float32]] = []
    for episode in itertools.count():
        if len(seen) >= WATCHED:
            break
        obs, _ = env.reset(seed=episode)
        noise, over = NOISES[episode % len(NOISES)], False
        while not over:
            action, _ = model.predict(obs, deterministic=True)
            seen.append(np.asarray(obs, np.float32))
            actions.append(action)
            played = np.clip(action + rng.normal(0.0, noise, action.shape), -1.0, 1.0)
            obs, _, terminated, truncated, _ = env.step(played)
            over = terminated or truncated
    env.close()
    obs_all, actions_all = torch.as_tensor(np.stack(seen)), torch.as_tensor(np.stack(actions))
    return Data(obs_all, actions_all, len(seen) * 9 // 10)


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """What all results in a folder have in common, so that its table compares actors.

    Raises:
        FileNotFoundError: if there is no teacher.
    """
    if args.teacher is not None:
        if not args.teacher.is_file():
            raise FileNotFoundError(f"there is no model {args.teacher}; name one with --teacher")
        return {"steps": args.steps, "teacher": sha256(args.teacher), "env": args.env}
    return {"steps": args.steps, "dataset": args.dataset.name}


def listed(args: argparse.Namespace) -> list[tuple[Path, dict[str, Any]]]:
    """The file of each actor and seed, and what decides its content; seeds first."""
    return [
        (
            args.out / f"{name.replace(', ', '-').replace(' ', '_')}_{seed}.json",
            {"actor": name, "options": ACTORS[name], "seed": seed, **shared(args)},
        )
        for seed in args.seeds
        for name in args.actors
    ]


def copied(settings: Mapping[str, Any], data: Data, env_id: str) -> dict[str, Any]:
    """What becomes of one actor and seed."""
    name, seed, steps = settings["actor"], settings["seed"], settings["steps"]
    torch.manual_seed(seed)
    actor = make(name, data)
    start = time.perf_counter()
    error = fit(actor, data, steps, seed)
    seconds = time.perf_counter() - start
    returns = play(actor, env_id)
    print(f"{name}, seed {seed}: error {error:.4f}, return {np.mean(returns):,.0f}", flush=True)
    ms_per_step = 1e3 * seconds / steps
    return {**settings, "error": error, "returns": returns, "ms_per_step": ms_per_step}


def markdown(out: Path) -> str:
    """What is done, as a table."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*.json")):
        entry = read_json(path)
        found.setdefault(entry["actor"], []).append(entry)
    rows = [
        [
            name,
            spread([100 * entry["error"] for entry in found[name]], 2),
            spread([float(np.mean(entry["returns"])) for entry in found[name]], 0),
        ]
        for name in ACTORS
        if name in found
    ]
    return table(["actor", "error, % of the variance", "return"], rows)


def main() -> None:
    """Copy, play, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("--dataset", type=Path, default=SHARED / "halfcheetah_medium_expert.npz")
    add("--teacher", type=Path, help="TD3's file, in place of a dataset")
    add("--env", help="the teacher's environment, with actions in [-1, 1]")
    add("--actors", nargs="+", choices=list(ACTORS), default=list(ACTORS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--steps", type=int, default=6000)
    add("--out", type=Path, default=Path("runs/cloning"))
    add("--table", action="store_true", help="print what is kept in --out, and train nothing")
    args = parser.parse_args()
    if args.table:
        if not any(args.out.glob("*.json")):
            parser.error(f"nothing is done in {args.out}; start it without --table")
        print(markdown(args.out))
        return
    if (args.teacher is None) != (args.env is None):
        parser.error("--teacher and --env go together")
    if args.steps < 1:
        parser.error(f"--steps must be at least 1, got {args.steps}")
    own_commit()  # before anything long
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for path in args.out.glob("*.json"):
            check_settings(path, shared(args))
        for path, settings in listed(args):
            check_settings(path, settings)
        torch.set_num_threads(1)
        if args.teacher is None:
            data, env_id = load(args.dataset, args.steps)
        else:
            data, env_id = watch(args.teacher, args.env), args.env
    except (ValueError, FileNotFoundError, gymnasium.error.Error) as error:
        parser.error(str(error))
    for path, settings in listed(args):
        once(path, settings, functools.partial(copied, settings, data, env_id))
    print(markdown(args.out))


if __name__ == "__main__":
    main()
