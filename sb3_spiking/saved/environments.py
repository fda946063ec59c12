"""The environment that a model acts in, with the statistics and stacked frames of its training."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_spiking.saved.arguments import Arguments
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.loading import Source
from sb3_spiking.saved.zoo_folder import ZooFolder, zoo_env


def import_packages(names: Sequence[str]) -> None:
    """Import packages that register environments.

    Raises:
        UsageError: if one cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"--gym-packages: {name} cannot be imported: {error}") from error


def env_id_of(args: Arguments, source: Source) -> str:
    """The environment's id: --env, or that of RL Zoo's folder.

    Raises:
        UsageError: if neither names one.
    """
    if args.env is not None:
        return str(args.env)
    trained = source.folder.env if source.folder else None
    if trained is None:
        raise UsageError(f"{source.path} lies in no folder of RL Zoo that names one: pass --env")
    return trained


def open_env(args: Arguments, source: Source, env_id: str | None = None) -> VecEnv:
    """The environment that a model acts in.

    Args:
        args: with env, env_kwargs, gym_packages and seed.
        source: the model.
        env_id: None: as `env_id_of`.

    Raises:
        UsageError: if it cannot be made, or is of other spaces than the model.
    """
    import_packages(args.gym_packages)
    env_id = env_id_of(args, source) if env_id is None else env_id
    env = make_env(env_id, args.env_kwargs, args.seed, source.folder, source.statistics)
    try:
        check_spaces(env, source.model.policy, source.path, env_id)
    except ValueError:
        env.close()
        raise
    return env


def make_env(
    env_id: str,
    env_kwargs: dict[str, Any],
    seed: int,
    folder: ZooFolder | None,
    statistics: Path | None,
) -> VecEnv:
    """One environment, ready for `policy.predict`; its Monitor sees the environment's own rewards.

    Args:
        env_id: id of the environment.
        env_kwargs: its arguments.
        seed: of its first reset.
        folder: RL Zoo's settings; None for none.
        statistics: VecNormalize's file; None for the folder's, or none.

    Raises:
        UsageError: if it cannot be made, or the statistics do not fit it.
    """
    if folder is not None:
        env = zoo_env(folder, env_id, env_kwargs, seed)
        if statistics is not None and unwrap_vec_normalize(env) is not None:
            env.close()
            raise UsageError(
                f"--vec-normalize: {folder.path} has statistics of its own, which RL Zoo puts back;"
                " leave it out"
            )
    else:
        env = _make(env_id, env_kwargs, seed)
    if statistics is not None:
        env = _normalized(env, statistics)
    normalizer = unwrap_vec_normalize(env)
    if normalizer is not None:
        normalizer.training = False
    return BaseAlgorithm._wrap_env(env)


def _make(env_id: str, env_kwargs: dict[str, Any], seed: int) -> VecEnv:
    try:
        return make_vec_env(env_id, seed=seed, env_kwargs=env_kwargs)
    except Exception as error:  # an environment may raise anything at what it is given
        raise UsageError(f"the environment {env_id!r} cannot be made: {error}") from error


def _normalized(env: VecEnv, statistics: Path) -> VecNormalize:
    try:
        return VecNormalize.load(str(statistics), env)
    except Exception as error:  # a pickle of another kind may fail on anything
        env.close()
        raise UsageError(
            f"{statistics} holds no statistics of VecNormalize that fit the environment "
            f"({type(error).__name__}: {error})"
        ) from error


def check_spaces(env: VecEnv, model: Any, path: Path, env_id: str) -> None:
    """Raise unless a model fits the environment.

    Raises:
        UsageError: naming the space that differs.
    """
    try:
        check_for_correct_spaces(env, model.observation_space, model.action_space)
    except ValueError as error:
        raise UsageError(
            f"{path} was not trained for {env_id}: {error}; pass the environment of its training "
            "with --env, and its statistics or wrappers (--vec-normalize, a folder of RL Zoo)"
        ) from error
