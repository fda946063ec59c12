"""Which algorithm saved a file, found without loading it."""

import json
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

from sb3_spiking.saved.errors import UsageError

_SB3, _CONTRIB = "stable_baselines3", "sb3_contrib"
_PACKAGES = {
    **dict.fromkeys(("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"), _SB3),
    **dict.fromkeys(
        ("ARS", "CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC", "TRPO"), _CONTRIB
    ),
}
# RL Zoo's names where they are not the class's.
_ALIASES = {"ppo_lstm": "RecurrentPPO", "ppo_mask": "MaskablePPO"}
_NAMES = {**{name.lower(): name for name in _PACKAGES}, **_ALIASES}

_ACTOR_CRITIC = ("PPO", "A2C", "TRPO")
# Where the saved policy's class was defined -> algorithms that use it.
_BY_MODULE = {
    "sb3_spiking.td3": ("TD3", "DDPG"),
    "sb3_spiking.sac": ("SAC",),
    "sb3_spiking.dqn": ("DQN",),
    "sb3_spiking.on_policy": ("PPO", "A2C"),
    "sb3_spiking.contrib.ars": ("ARS",),
    "sb3_spiking.contrib.crossq": ("CrossQ",),
    "sb3_spiking.contrib.maskable": ("MaskablePPO",),
    "sb3_spiking.contrib.qrdqn": ("QRDQN",),
    "sb3_spiking.contrib.recurrent": ("RecurrentPPO",),
    "sb3_spiking.contrib.tqc": ("TQC",),
    "sb3_spiking.contrib.trpo": ("TRPO",),
    f"{_SB3}.td3.policies": ("TD3", "DDPG"),
    f"{_SB3}.sac.policies": ("SAC",),
    f"{_SB3}.dqn.policies": ("DQN",),
    f"{_SB3}.common.policies": _ACTOR_CRITIC,
    f"{_CONTRIB}.ars.policies": ("ARS",),
    f"{_CONTRIB}.crossq.policies": ("CrossQ",),
    f"{_CONTRIB}.common.maskable.policies": ("MaskablePPO",),
    f"{_CONTRIB}.qrdqn.policies": ("QRDQN",),
    f"{_CONTRIB}.common.recurrent.policies": ("RecurrentPPO",),
    f"{_CONTRIB}.tqc.policies": ("TQC",),
}


def algorithm_name(text: str) -> str:
    """The class's name of an algorithm, from its own name or RL Zoo's.

    Raises:
        UsageError: if there is none.
    """
    name = _NAMES.get(text.lower()) or _NAMES.get(text.lower().replace("-", ""))
    if name is None:
        raise UsageError(f"--algo must be one of {', '.join(sorted(_NAMES))}, got {text!r}")
    return name


def algorithm_class(name: str) -> Any:
    """The algorithm of a class's name.

    Raises:
        ImportError: if its package is missing.
    """
    try:
        return getattr(import_module(_PACKAGES[name]), name)
    except ImportError as error:
        raise ImportError(
            f"{name} needs {_PACKAGES[name]}: pip install 'spiking-policies[sb3]'"
        ) from error


def read_settings(path: Path) -> dict[str, Any]:
    """What a model's file says about itself as plain text; no pickle in it is opened.

    Raises:
        FileNotFoundError: if there is no such file.
        UsageError: if it was not saved by Stable-Baselines3.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the model's .zip file in it")
    if not path.is_file():
        raise FileNotFoundError(f"there is no model {path}")
    try:
        with zipfile.ZipFile(path) as file:
            settings = json.loads(file.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged or no model of Stable-Baselines3 ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("policy_class"), dict):
        raise UsageError(f"{path} is no model of Stable-Baselines3: it names no policy")
    return settings


def find_algorithm(
    path: Path, settings: dict[str, Any], given: str | None, folder: str | None
) -> tuple[str, str]:
    """The algorithm of a saved model, and what was assumed, or an empty text.

    Args:
        path: the file, for messages.
        settings: of `read_settings`.
        given: --algo.
        folder: what RL Zoo's folder says; --algo comes first.

    Raises:
        UsageError: if the file cannot tell and nothing was given, or it holds another algorithm's.
    """
    module = settings["policy_class"].get("__module__")
    candidates = _BY_MODULE.get(module)
    # A folder may have been renamed.
    named = given or (folder if folder is not None and folder.lower() in _NAMES else None)
    if named is not None:
        name = algorithm_name(named)
        if candidates is not None and name not in candidates:
            origin = "--algo" if given else "its folder"
            raise UsageError(
                f"{path} holds a policy of {' or '.join(candidates)}, {origin} says {name}"
            )
        return name, ""
    if candidates is None:
        raise UsageError(
            f"{path} holds a policy of {module}, which names no algorithm: pass --algo, one of "
            f"{', '.join(sorted(_NAMES))}"
        )
    name = _by_settings(candidates, settings)
    if candidates == ("TD3", "DDPG"):
        other = "DDPG" if name == "TD3" else "TD3"
        return name, (
            f"{path.name}: taken for {name} by its settings; {other} saves the same policy and "
            f"acts alike (override with --algo {other.lower()})."
        )
    return name, ""


def _by_settings(candidates: tuple[str, ...], settings: dict[str, Any]) -> str:
    """Which of several algorithms that share a policy has these settings."""
    if "TRPO" in candidates and "cg_max_steps" in settings:
        return "TRPO"
    if "PPO" in candidates:
        return "PPO" if "clip_range" in settings else "A2C"
    if "DDPG" in candidates:
        # DDPG is TD3 with these settings.
        delayed = settings.get("policy_delay"), settings.get("target_noise_clip")
        return "DDPG" if delayed == (1, 0.0) else "TD3"
    return candidates[0]
