"""`selftest` plays the trained policies that are shipped here; `pack` adds one to them."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from d3rlpy.constants import ActionSpace
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv
from torch import nn

from d3rlpy_spiking.cli.arguments import TRAINED, Arguments
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.runs import load_algorithm, read_json, save_algorithm
from policies.report.fill import made_by
from policies.selftest import (
    OPENING,
    Played,
    Shipped,
    SkippedError,
    add_to,
    check_names,
    commit_here,
    show_list,
)
from policies.selftest import selftest as play_all


def selftest(args: Arguments) -> int:
    """Play what is shipped and compare it with what is on record; prints a line on each.

    Returns:
        0, or 1 where a policy failed.

    Raises:
        ValueError: if a name is of none.
    """
    check_names(args.names, [TRAINED])
    if args.list:
        show_list([TRAINED])
        return 0
    passed = play_all(TRAINED, play, args.names, args.episodes, show_traceback=args.traceback)
    return 0 if passed else 1


def play(shipped: Shipped, path: Path, seeds: Iterable[int]) -> list[Played]:
    """The episode of each seed; see `policies.selftest.check.Play`."""
    target = 0.0 if shipped.target_return is None else shipped.target_return
    return _play(path, shipped.env, shipped.env_kwargs, target, seeds, None)


def _play(
    path: Path,
    env_id: str,
    env_kwargs: dict[str, Any],
    target_return: float,
    seeds: Iterable[int],
    change: Callable[[nn.Module], None] | None,
) -> list[Played]:
    try:
        env = gymnasium.make(env_id, **env_kwargs)
    except (DependencyNotInstalled, UnregisteredEnv) as error:
        raise SkippedError(str(error)) from error
    try:
        algo = load_algorithm(path, "cpu")
        if change is not None:
            for module in algo.impl.modules.get_torch_modules().values():
                change(module)
        seen = _Seen(algo.get_action_type() == ActionSpace.DISCRETE)
        actor = algo.as_stateful_wrapper(target_return, seen)
        return [_episode(actor, env, seed, seen) for seed in seeds]
    finally:
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's


class _Seen:
    """Takes the best action, and keeps what the network said: logits tell more than an action."""

    def __init__(self, discrete: bool) -> None:
        self._discrete = discrete
        self.values: tuple[float, ...] = ()

    def __call__(self, output: Any) -> Any:
        self.values = tuple(np.ravel(output).astype(float).tolist())
        return int(np.argmax(output)) if self._discrete else output


def _episode(actor: Any, env: gymnasium.Env[Any, Any], seed: int, seen: _Seen) -> Played:
    actor.reset()
    obs, _ = env.reset(seed=seed)
    reward, total, ended = 0.0, 0.0, False
    opening: list[tuple[float, ...]] = []
    while not ended:
        # A copy: the wrapper keeps what it is given, and an environment may reuse its array.
        action = actor.predict(np.array(obs), reward)
        if len(opening) < OPENING:
            opening.append(seen.values)
        obs, last, terminated, truncated, _ = env.step(action)
        reward = float(last)
        total += reward
        ended = terminated or truncated
    return Played(total, tuple(opening))


def pack(args: Arguments) -> None:
    """Add a model to the shipped ones, without its optimizer's moments; prints what came of it.

    Raises:
        UsageError: if what trained it is not known, or the environment is missing.
        ValueError: if another policy has that name's file.
    """
    if not re.fullmatch(r"[a-z0-9_]+", args.name):
        raise UsageError(f"--name must be of a-z, 0-9 and _, got {args.name!r}")
    seed, steps = _training(args)
    algo = load_algorithm(args.model, "cpu")
    if not hasattr(algo, "as_stateful_wrapper"):
        raise UsageError(f"{args.model} must hold a transformer algorithm, got {algo!r}")
    algo.impl.modules.reset_optimizer_states()

    def replay(
        path: Path, seeds: Iterable[int], change: Callable[[nn.Module], None] | None
    ) -> list[Played]:
        return _play(path, args.env, args.env_kwargs, args.target_return, seeds, change)

    try:
        packed = add_to(
            args.to,
            lambda name: save_algorithm(algo, Path(name)),
            replay,
            episodes=args.episodes,
            replays=args.replays,
            name=args.name,
            file=f"{args.name}.d3",
            algorithm=type(algo).__name__,
            env=args.env,
            env_kwargs=args.env_kwargs,
            target_return=args.target_return,
            command=args.training,
            seed=seed,
            steps=steps,
            commit=args.commit or commit_here(),
            arithmetic=f"matmul {getattr(algo.config, 'matmul', 'of PyTorch')!r}",
            versions=made_by("d3rlpy", "mujoco")["versions"],
            first_seed=args.seed,
        )
    except SkippedError as error:
        raise UsageError(f"--env {args.env}: {error}") from error
    print(packed)


def _training(args: Arguments) -> tuple[int, int]:
    """Seed and gradient steps: those given, or of the run's folder."""
    record = args.model.parent / "results.json"
    known = read_json(record) if record.is_file() else {}
    found = {"seed": args.training_seed, "steps": args.steps}
    for name, value in found.items():
        value = known.get(name) if value is None else value
        if not isinstance(value, int):
            raise UsageError(
                f"there is no results.json beside {args.model} that says its training's {name}; "
                f"pass --{'training-seed' if name == 'seed' else 'steps'}"
            )
        found[name] = value
    return found["seed"], found["steps"]
