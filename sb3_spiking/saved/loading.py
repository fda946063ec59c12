"""Models from files, and the untrained dense twin of a spiking one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import ConstantSchedule
from torch import nn

from policies.value import ValueReadout
from sb3_spiking.acting import ActingNetwork
from sb3_spiking.options import SpikingOptions
from sb3_spiking.saved.algorithms import algorithm_class, find_algorithm, read_settings
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.zoo_folder import ZooFolder, find_zoo_folder

# Nothing of these is needed to act, and some fail in another version or without an environment.
_REPLACED: dict[str, Any] = {
    "learning_rate": 0.0,
    "lr_schedule": ConstantSchedule(0.0),
    "clip_range": ConstantSchedule(0.2),
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "optimize_memory_usage": False,
    "tensorboard_log": None,
    "_last_obs": None,
}
_OFF_POLICY = ("DDPG", "DQN", "SAC", "TD3", "CrossQ", "QRDQN", "TQC")


@dataclass(frozen=True)
class Loaded:
    """A policy that acts.

    Attributes:
        algorithm: its class's name.
        policy: it takes the decisions.
        network: the part of it that does.
        policy_kwargs: what the policy was built with.
    """

    algorithm: str
    policy: Any
    network: ActingNetwork
    policy_kwargs: dict[str, Any]


def load(path: Path, algorithm: str) -> Loaded:
    """Load a model for acting on the CPU; the file's pickles are run.

    Raises:
        UsageError: if it cannot be loaded.
    """
    # A buffer that only training needs may take gigabytes.
    small = {"buffer_size": 1} if algorithm in _OFF_POLICY else {}
    try:
        model = algorithm_class(algorithm).load(
            path, device="cpu", custom_objects=_REPLACED, **small
        )
    except ImportError:
        raise
    except Exception as error:  # a damaged or foreign file may fail on anything
        raise UsageError(
            f"{path} cannot be loaded as a model of {algorithm} ({type(error).__name__}: {error}); "
            "if another algorithm saved it, name it with --algo"
        ) from error
    return _loaded(algorithm, model.policy, model.policy_kwargs)


def _loaded(algorithm: str, policy: Any, policy_kwargs: dict[str, Any]) -> Loaded:
    policy.set_training_mode(False)
    return Loaded(algorithm, policy, ActingNetwork(policy), policy_kwargs)


@dataclass(frozen=True)
class Source:
    """A model's file and what belongs to it.

    Attributes:
        path: the file.
        model: what it holds.
        folder: the settings of RL Zoo's run that it lies in; None for none.
        statistics: VecNormalize's file that was named for it; None for none.
        notes: what was assumed of it.
    """

    path: Path
    model: Loaded
    folder: ZooFolder | None
    statistics: Path | None
    notes: tuple[str, ...]


def open_model(path: Path, algo: str | None, statistics: Path | None) -> Source:
    """Load a model with what its folder says about it.

    Args:
        path: the file.
        algo: algorithm that saved it; None: what its folder or itself says.
        statistics: VecNormalize's file; None for the folder's, or none.

    Raises:
        ValueError: if the file holds no model that can be loaded.
        FileNotFoundError: if a file is missing.
        ImportError: if a package is missing.
    """
    settings = read_settings(path)
    folder = find_zoo_folder(path)
    if statistics is not None and not statistics.is_file():
        raise FileNotFoundError(f"there is no file {statistics} of VecNormalize")
    name, assumed = find_algorithm(path, settings, algo, folder.algorithm if folder else None)
    notes = [assumed] if assumed else []
    if folder is not None:
        notes.append(f"{path.name}: wrappers and statistics of {folder.path} were put back.")
    return Source(path, load(path, name), folder, statistics, tuple(notes))


def check_spiking(model: Loaded, path: Path) -> None:
    """Raise if the model that a page is to be about does not spike.

    Raises:
        UsageError: naming what to pass.
    """
    if not model.network.spiking_bodies():
        raise UsageError(
            f"{path} holds a dense policy, {type(model.policy).__name__}; MODEL must be a spiking "
            "one, and a dense one can stand beside it with --dense"
        )


def check_twin(dense: Loaded, spiking: Loaded, path: Path) -> None:
    """Raise if a model cannot stand beside a spiking one.

    Raises:
        UsageError: if it spikes, or is for other spaces.
    """
    if dense.network.spiking_bodies():
        raise UsageError(
            f"{path} holds a spiking policy, {type(dense.policy).__name__}; --dense takes a dense "
            "one, trained with 'MlpPolicy' and the same net_arch"
        )
    for name in ("observation_space", "action_space"):
        own, other = (getattr(model.policy, name) for model in (spiking, dense))
        if type(own) is not type(other) or own.shape != other.shape:
            raise UsageError(f"{path} has the {name} {other}, MODEL {own}: they are no twins")


def hidden_widths(network: ActingNetwork) -> list[int]:
    """Outputs of the linear layers between features and values; in each, neurons or units."""
    linears = [m for m in network.body.modules() if isinstance(m, nn.Linear)]
    # Values are read by the readout, or by the last layer; spikes go into the coding's populations.
    last = network.readout is None or bool(network.spiking_bodies())
    if any(isinstance(m, ValueReadout) for m in network.body.modules()):
        linears = linears[:-2]
    return [layer.out_features for layer in (linears[:-1] if last else linears)]


def front_text(network: ActingNetwork) -> str:
    """What stands before the hidden layers: extractor and LSTM with their sizes."""
    parts = [("", network.extractor), ("LSTM ", network.lstm)]
    found = []
    for name, part in parts:
        size = 0 if part is None else sum(p.numel() for p in part.parameters())
        if part is not None and size:
            found.append(f"{name or type(part).__name__ + ' '}with {size:,} parameters")
    return ", ".join(found)


def size_text(network: ActingNetwork) -> str:
    """The sizes of a network."""
    widths = hidden_widths(network)
    text = "hidden layers " + ("-".join(str(width) for width in widths) or "none")
    readouts = [m for m in network.body.modules() if isinstance(m, ValueReadout)]
    if readouts:
        text += f" and a population of {readouts[0].level.in_features} for the values"
    before = front_text(network)
    return f"{before}, {text}" if before else text


def untrained_twin(spiking: Loaded) -> Loaded:
    """The same algorithm's dense policy with the same settings, untrained.

    Raises:
        UsageError: if the algorithm has no such policy with these settings.
    """
    algorithm: Any = algorithm_class(spiking.algorithm)
    policy = spiking.policy
    policy_kwargs = spiking.policy_kwargs
    # Policies for images and dictionaries differ from these by their extractor only.
    name = "MlpLstmPolicy" if spiking.network.is_recurrent else "MlpPolicy"
    own = SpikingOptions.names()
    kwargs = {key: value for key, value in policy_kwargs.items() if key not in own}
    rate = []
    if spiking.algorithm != "ARS":  # which has no schedule, and no extractor to choose
        rate = [ConstantSchedule(0.0)]
        kwargs["features_extractor_class"] = policy.features_extractor_class
        kwargs["features_extractor_kwargs"] = dict(policy.features_extractor_kwargs)
    policy_class: type[BasePolicy] = algorithm.policy_aliases[name]
    try:
        twin = policy_class(policy.observation_space, policy.action_space, *rate, **kwargs)
    except Exception as error:
        raise UsageError(
            f"{spiking.algorithm}'s {name} cannot be built with the model's policy_kwargs "
            f"{sorted(kwargs)} ({type(error).__name__}: {error}); pass a dense model with --dense"
        ) from error
    loaded = _loaded(spiking.algorithm, twin, kwargs)
    own_front, front = front_text(spiking.network), front_text(loaded.network)
    if own_front != front:
        raise UsageError(
            f"{spiking.algorithm}'s {name} was built with another features extractor ({front}) "
            f"than the model has ({own_front}); pass a dense model with --dense"
        )
    return loaded
