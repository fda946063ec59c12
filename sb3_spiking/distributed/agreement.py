"""What ranks must have in common, and what cannot be spread over ranks at all."""

from typing import Any

from sb3_contrib import ARS, TRPO, RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from policies.distributed import gather_objects, world_size
from policies.distributed.statistics import shares_gradients

# By what loops count: delayed updates and target networks.
_COUNTS = {"_n_updates", "_n_calls"}
# Plain settings that each rank has for itself.
_OWN = {"seed", "verbose", "tensorboard_log", "start_time", "device"}


def check_algorithm(model: Any) -> None:
    """Raise unless the model trains by steps of optimizers.

    Raises:
        TypeError: if it does not; the message says what to use.
    """
    if not isinstance(model, BaseAlgorithm):
        raise TypeError(
            f"model must be an algorithm of Stable-Baselines3, got {type(model).__name__}; for "
            "modules and loops of your own see policies.distributed"
        )
    if isinstance(model, ARS):
        raise TypeError(
            "ARS has no gradients to average; it spreads over processes by itself, see "
            "sb3_contrib's AsyncEval"
        )
    if isinstance(model, TRPO):
        raise TypeError(
            "TRPO takes its step by a line search around the gradients, which would go apart on "
            "different ranks; use PPO"
        )
    if not isinstance(model, OnPolicyAlgorithm | OffPolicyAlgorithm):
        raise TypeError(
            f"{type(model).__name__} is neither on-policy nor off-policy in Stable-Baselines3's "
            "sense; derive it from OnPolicyAlgorithm or OffPolicyAlgorithm"
        )


def check_masked_loss(model: Any) -> None:
    """Raise ValueError if masked losses would be weighted wrongly.

    Where a batch norm is shared, a rank's gradient holds every rank's loss: weighing it by this
    rank's valid steps is too late then.
    """
    if isinstance(model, RecurrentPPO) and shares_gradients(model.policy):
        raise ValueError(
            "RecurrentPPO with a batch norm cannot be distributed: its masked losses have "
            "different numbers of valid steps on each rank; use a LayerNorm in the features "
            "extractor"
        )


def check_split(model: Any) -> None:
    """Raise ValueError unless the model's batches can be split among the ranks."""
    size = world_size()
    names = ["batch_size"] if hasattr(model, "batch_size") else []
    if isinstance(model, OnPolicyAlgorithm):
        names.append("n_steps")
    for name in names:
        value = getattr(model, name)
        if value % size:
            raise ValueError(
                f"split=True needs {name} to be a multiple of the {size} ranks, got {value}; set "
                f"{name}={value // size * size or size}"
            )


def check_loops(model: Any) -> None:
    """Raise ValueError if ranks would go through the model's loop a different number of times."""
    if world_size() == 1 or not isinstance(model, OffPolicyAlgorithm):
        return
    freq: Any = model.train_freq
    if freq.unit == TrainFrequencyUnit.EPISODE:
        raise ValueError(
            f"train_freq=({freq.frequency}, 'episode') makes ranks train after different numbers "
            "of steps, as their episodes differ in length; give a number of steps, such as "
            "train_freq=64, and gradient_steps=-1 for as many updates"
        )


def check_agreement(model: Any, **more: Any) -> None:
    """Raise unless all ranks hold models of the same settings.

    Raises:
        ValueError: on every rank, naming what differs.
    """
    mine = {
        name: value
        for name, value in vars(model).items()
        if (not name.startswith("_") or name in _COUNTS)
        and name not in _OWN
        and isinstance(value, int | float | str | tuple | None)
    }
    mine |= {"algorithm": type(model).__name__, "policy": type(model.policy).__name__, **more}
    env = model.get_vec_normalize_env()
    if env is not None:
        names = ("training", "norm_obs", "norm_reward", "clip_obs", "gamma", "norm_obs_keys")
        mine["VecNormalize"] = str({name: getattr(env, name, None) for name in names})
    for name in ("observation_space", "action_space"):
        mine[name] = str(getattr(model, name))
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        mine["an empty replay buffer"] = model.replay_buffer.size() == 0
    everyone = gather_objects(mine)
    for number, theirs in enumerate(everyone):
        for name in sorted({*everyone[0], *theirs}):
            first, other = everyone[0].get(name), theirs.get(name)
            if first != other and not (first != first and other != other):  # NaN equals NaN here
                raise ValueError(
                    f"all ranks must train alike, but {name} is {first!r} on rank 0 and {other!r} "
                    f"on rank {number}; build the model with the same arguments on every rank"
                )
