"""RL Zoo's log folders: settings and statistics that belong to a model in one of them.

logs/td3/Pendulum-v1_1/Pendulum-v1.zip                       (or best_model.zip, a checkpoint)
logs/td3/Pendulum-v1_1/Pendulum-v1/{config.yml,args.yml,vecnormalize.pkl}
"""

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from sb3_spiking.saved.errors import UsageError


@dataclass(frozen=True)
class ZooFolder:
    """What lies beside a model in a run's folder.

    Attributes:
        path: the folder with config.yml.
        algorithm: RL Zoo's name of it; None where nothing says it.
        env: the environment's id; None where nothing says it.
        env_kwargs: the environment's arguments on the command line of the training.
    """

    path: Path
    algorithm: str | None
    env: str | None
    env_kwargs: dict[str, Any]


def find_zoo_folder(model: Path) -> ZooFolder | None:
    """The settings of the run that a model lies in; None if it lies in none.

    Raises:
        ImportError: if it does and RL Zoo is missing.
        UsageError: if the settings cannot be read.
    """
    found = [path.parent for path in sorted(model.parent.glob("*/config.yml"))]
    # A model that someone copied elsewhere may have strange neighbours.
    fits = [path for path in found if path.name == model.stem] or found
    if len(fits) != 1:
        return None
    path = fits[0]
    if find_spec("rl_zoo3") is None:
        raise ImportError(
            f"{model} lies in a run's folder of RL Zoo ({path}), whose wrappers and statistics RL "
            "Zoo puts back: pip install 'spiking-policies[zoo]', or copy the model elsewhere and "
            "pass --env, --algo and --vec-normalize"
        )
    args = _read(path / "args.yml") if (path / "args.yml").is_file() else {}
    algorithm = args.get("algo") or model.parent.parent.name
    env = args.get("env")
    return ZooFolder(
        path, algorithm, None if env is None else str(env), args.get("env_kwargs") or {}
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml  # comes with RL Zoo

    try:
        # RL Zoo writes ordered dictionaries, which its own scripts read like this.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.UnsafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold settings by name, got {type(content).__name__}")
    return content


def zoo_env(folder: ZooFolder, env_id: str, env_kwargs: dict[str, Any], seed: int) -> VecEnv:
    """The environment as RL Zoo's `enjoy` makes it: wrappers, statistics and stacked frames.

    Raises:
        UsageError: if RL Zoo cannot make it.
    """
    with quiet():
        from rl_zoo3 import create_test_env, get_saved_hyperparams
        from rl_zoo3.exp_manager import ExperimentManager

        try:
            settings, stats = get_saved_hyperparams(
                str(folder.path), norm_reward=False, test_mode=True
            )
            kwargs = {**settings.pop("env_kwargs", {}), **folder.env_kwargs, **env_kwargs}
            env: VecEnv = create_test_env(
                env_id,
                stats_path=stats,
                seed=seed,
                should_render=False,
                hyperparams=settings,
                env_kwargs=kwargs,
                vec_env_cls=ExperimentManager.default_vec_env_cls,
            )
        except Exception as error:  # its settings name wrappers, which may raise anything
            raise UsageError(
                f"RL Zoo cannot make {env_id} with the settings in {folder.path} "
                f"({type(error).__name__}: {error})"
            ) from error
    return env


@contextlib.contextmanager
def quiet() -> Any:
    """Around RL Zoo: what it prints of itself, and Gym's notice, are left out."""
    with contextlib.suppress(ImportError):
        from importlib import import_module

        import_module("gym_notices.notices").notices.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
