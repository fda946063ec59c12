r"""A dataset of medium-replay kind: what one training run did at several of its stages.

    python -m benchmarks.online_learning --kinds spiking --envs Walker2d-v4 --seeds 0
    mkdir -p runs/offline
    python -m benchmarks.offline_replay_data --algo td3 --env Walker2d-v4 --steps 200000 \
        --checkpoints runs/online/spiking/Walker2d-v4_seed0/stages --until 150000 \
        --out runs/offline/walker2d_medium_replay.npz

`--until` is the step where the run is medium: where its evaluations first reach about a third of an
expert's return, some 1,300 on Walker2d. The same stages one by one are `--checkpoints
runs/online/spiking/Walker2d-v4_seed0/stages/steps_25000.zip ...` up to `steps_150000.zip`.

Each checkpoint acts for the same number of steps, with the exploration noise of its training, so
evenly spaced checkpoints up to a medium one stand for that run's replay buffer. D4RL's is the
buffer itself; this one lacks its random first steps, holds whole episodes, and the last of each
checkpoint is cut. Besides what load_npz reads the file holds env_id, checkpoint [N] (which one
acted) and description, JSON text: name, steps, episodes and mean return of each.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import DDPG, SAC, TD3

import sb3_spiking  # noqa: F401  # its policies' names
from benchmarks import stages
from d3rlpy_spiking.datasets import collect_from_sb3
from policies.files import write_atomically

ALGORITHMS: dict[str, Any] = {"td3": TD3, "ddpg": DDPG, "sac": SAC}


class Exploring:
    """An agent that acts with Gaussian noise, as TD3 does in training.

    Args:
        model: the agent.
        noise: standard deviation, where actions are in [-1, 1]; 0 for none.
        seed: of the noise.
    """

    def __init__(self, model: Any, noise: float, seed: int) -> None:
        self.model, self.noise = model, noise
        self.rng = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        """All else is the agent's."""
        return getattr(self.model, name)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[NDArray[Any], Any]:
        """The agent's actions and noise, within the space."""
        actions, state = self.model.predict(observation, *args, **kwargs)
        space = self.model.action_space
        noise = self.rng.normal(scale=self.noise, size=actions.shape) * (space.high - space.low) / 2
        return np.clip(actions + noise, space.low, space.high).astype(actions.dtype), state


def collect(
    models: dict[str, Any], env_id: str, steps: int, noise: float, seed: int
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Steps of several agents one after the other, in equal parts.

    Args:
        models: agents by name.
        env_id: the environment.
        steps: of all together.
        noise: see Exploring.
        seed: of environment and noise.

    Returns:
        the arrays of the file but its description, and what is in it: one entry an agent.
    """
    parts: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
    about = []
    for i, (name, model) in enumerate(models.items()):
        share = steps * (i + 1) // len(models) - steps * i // len(models)
        env = gymnasium.make(env_id)
        agent: Any = Exploring(model, noise, seed + i)
        episodes = collect_from_sb3(agent, env, share, seed=seed + i).episodes
        env.close()  # type: ignore[no-untyped-call]  # gymnasium's
        for episode in episodes:
            ends = np.zeros(len(episode), np.bool_)
            ends[-1] = True
            parts["observations"].append(episode.observations)
            parts["actions"].append(episode.actions)
            parts["rewards"].append(episode.rewards[:, 0])
            parts["terminals"].append(ends & episode.terminated)
            parts["timeouts"].append(ends & (not episode.terminated))
        parts["checkpoint"].append(np.full(share, i, np.int16))
        # The last one is cut, so its return says nothing.
        whole = [float(np.sum(episode.rewards)) for episode in episodes[:-1]]
        about.append(
            {
                "checkpoint": name,
                "steps": share,
                "episodes": len(episodes),
                "mean_return": float(np.mean(whole)) if whole else None,
                "sd": float(np.std(whole)) if whole else None,
            }
        )
    arrays = {name: np.concatenate(found) for name, found in parts.items()}
    return arrays | {"env_id": np.array(env_id)}, about


_ARRAYS = ("observations", "actions", "rewards", "terminals", "timeouts", "checkpoint")


def models_at(paths: Sequence[Path], until: int | None) -> list[Path]:
    """Files of models, with folders of stages opened.

    Args:
        paths: models, or folders of stages.
        until: steps of the last stage of each folder; None: all.

    Raises:
        ValueError: if a path is neither, or `until` has no folder to speak of.
    """
    if until is not None and not any(path.is_dir() for path in paths):
        raise ValueError("--until needs a folder of stages among --checkpoints, which name files")
    models: list[Path] = []
    for path in paths:
        if path.is_dir():
            models += stages.found(path, until)
        elif path.is_file():
            models.append(path)
        else:
            raise ValueError(
                f"--checkpoints must be models or a folder of stages, and {path} is not there; "
                "benchmarks.online_learning leaves stages in KIND/ENV_seedSEED/stages"
            )
    return models


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a dataset and say what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    help_text = "models, or a folder of stages"
    add("--checkpoints", nargs="+", required=True, type=Path, metavar="PATH", help=help_text)
    add("--until", type=int, metavar="STEPS", help="last stage of a folder that is taken")
    add("--algo", choices=sorted(ALGORITHMS), default="td3")
    add("--env", default="Hopper-v4")
    add("--steps", type=int, default=200_000)
    add("--noise", type=float, default=0.1, help="sd of the noise on actions in [-1, 1]")
    add("--seed", type=int, default=0)
    add("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if not args.out.parent.is_dir():
        parser.error(f"there is no folder {args.out.parent} for --out")
    try:
        paths = models_at(args.checkpoints, args.until)
    except ValueError as error:
        parser.error(str(error))
    try:
        gymnasium.make(args.env).close()  # type: ignore[no-untyped-call]  # gymnasium's
    except gymnasium.error.Error as error:
        parser.error(f"--env must be an environment of Gymnasium, got {args.env!r}: {error}")
    small = {"buffer_size": 1}  # the agents only act
    models = {
        str(path): ALGORITHMS[args.algo].load(path, device="cpu", custom_objects=small)
        for path in paths
    }
    arrays, about = collect(models, args.env, args.steps, args.noise, args.seed)
    text = json.dumps(
        {"env": args.env, "algo": args.algo, "noise": args.noise, "seed": args.seed, "of": about}
    )
    arrays["description"] = np.array(text)
    write_atomically(
        str(args.out), lambda path: np.savez_compressed(path, allow_pickle=False, **arrays)
    )
    print(f"{args.out}: {len(arrays['rewards']):,} steps\n")
    print("| checkpoint | steps | episodes | mean return (sd) |\n|---|---|---|---|")
    for row in about:
        shown = "-" if row["mean_return"] is None else f"{row['mean_return']:.0f} ({row['sd']:.0f})"
        print(f"| {row['checkpoint']} | {row['steps']:,} | {row['episodes']} | {shown} |")


if __name__ == "__main__":
    main()
