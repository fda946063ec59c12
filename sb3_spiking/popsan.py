"""Published PopSAN actors as ready Stable-Baselines3 models; loading executes no pickle."""

import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import TD3
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from policies.normalizer import MAX_COUNT
from sb3_spiking.actors import SpikingActor

# Their name -> ours, for the parts that do not repeat; hidden layers are numbered.
_NAMES = {
    "encoder.mean": "encoder.mean",
    "encoder.std": "encoder.std",
    "decoder.decoder.weight": "decoder.weight",
    "decoder.decoder.bias": "decoder.bias",
}


class CheckpointError(ValueError):
    """A checkpoint file is damaged, of another kind, or does not fit the environment."""


def load_popsan(
    path: str | PathLike[str],
    env: GymEnv | str,
    obs_mean: NDArray[Any] | None = None,
    obs_var: NDArray[Any] | None = None,
    **td3_kwargs: Any,
) -> TD3:
    """Turn a PopSAN checkpoint into a TD3 model that predicts as published and trains on.

    The actor, its target and the observation statistics come from the file; the critics are new,
    since PopSAN publishes none.

    Args:
        path: `.npz` of plain arrays under PopSAN's parameter names (encoder.mean,
            snn.hidden_layers.0.weight, ..., decoder.decoder.bias) with obs_mean and obs_var; or
            PopSAN's own `.pt` state dict, read by torch's weights-only loader.
        env: environment, or its id; its spaces must fit the weights.
        obs_mean: mean of each observation, [obs_dim], where the file has none.
        obs_var: variance of each observation, [obs_dim], where the file has none.
        **td3_kwargs: passed to TD3 (learning_rate, seed, ...); policy_kwargs may set what the file
            does not determine.

    Returns:
        a TD3 model with "SpikingPopPolicy".

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is damaged, holds pickled objects, is no PopSAN checkpoint, or does
            not fit the environment.
        ValueError: if policy_kwargs sets what the file determines.

    Source: Tang et al. 2020 (PopSAN), checkpoints of its repository.
    """
    path = Path(path)
    if env is None:
        raise ValueError("env must be an environment or its id, got None: it fixes the spaces")
    arrays = _read(path)
    weights = _rename(arrays, path)
    mean = _statistic(arrays, "obs_mean", obs_mean, path)
    var = _statistic(arrays, "obs_var", obs_var, path)
    _check_chain(weights, mean, var, path)

    kwargs = {**_policy_kwargs(weights), **_free_kwargs(td3_kwargs.pop("policy_kwargs", None))}
    model = TD3("SpikingPopPolicy", env, policy_kwargs=kwargs, **td3_kwargs)
    for actor in (model.actor, model.actor_target):
        assert isinstance(actor, SpikingActor)
        _fill(actor, weights, mean, var, path)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    """PopSAN's arrays by name, from .npz or .pt, whatever the file is called."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the checkpoint file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no PopSAN checkpoint at {path}")
    try:
        return _read_npz(path) if _is_npz(path) else _read_pt(path)
    except CheckpointError:
        raise
    except Exception as error:  # numpy, zipfile, torch and its unpickler raise all kinds
        raise CheckpointError(
            f"{path} cannot be read as a PopSAN checkpoint (.npz or .pt): it is damaged, of "
            f"another kind, or holds more than arrays ({type(error).__name__}: {error})"
        ) from error


def _is_npz(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return path.suffix == ".npz"
    with zipfile.ZipFile(path) as file:
        return any(name.endswith(".npy") for name in file.namelist())


def _is_needed(name: str) -> bool:
    return name.startswith(("encoder.", "snn.", "decoder.", "popsan.", "obs_mean", "obs_var"))


def _read_npz(path: Path) -> dict[str, Tensor]:
    # Opened here: numpy leaves the file open when it turns out to be no archive.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = {name: np.asarray(file[name]) for name in file.files if _is_needed(name)}
        if not arrays:
            raise CheckpointError(
                f"{path} is no PopSAN checkpoint: it has {sorted(file.files)[:8]}"
            )
    # Into the machine's byte order, which is all that torch takes.
    native = {name: a.astype(a.dtype.newbyteorder("=")) for name, a in arrays.items()}
    return {name: torch.from_numpy(array) for name, array in native.items()}


def _read_pt(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded):
        raise CheckpointError(f"{path} holds no state dict of tensors, got {type(loaded).__name__}")
    arrays = {name: value for name, value in loaded.items() if _is_needed(name)}
    for name, value in arrays.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided
        if not plain or value.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} must be a dense tensor")
    return arrays


def _statistic(
    arrays: dict[str, Tensor], name: str, given: NDArray[Any] | None, path: Path
) -> Tensor:
    if given is not None:
        return torch.as_tensor(np.asarray(given, dtype=np.float32)).flatten()
    if name not in arrays:
        raise CheckpointError(
            f"{path} has no {name}; pass {name}= (PopSAN keeps it in a separate mean_var file)"
        )
    if not arrays[name].is_floating_point():
        raise CheckpointError(f"{path}: {name} must hold floating-point numbers")
    return arrays[name].float().flatten()


def _rename(arrays: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """PopSAN's names and shapes -> PopulationActor's."""
    prefix = "popsan." if any(name.startswith("popsan.") for name in arrays) else ""
    hidden = 0
    while f"{prefix}snn.hidden_layers.{hidden}.weight" in arrays:
        hidden += 1
    names = dict(_NAMES)
    for i in range(hidden + 1):
        theirs = f"snn.hidden_layers.{i}" if i < hidden else "snn.out_pop_layer"
        for part in ("weight", "bias"):
            names[f"{theirs}.{part}"] = f"mlp.linears.{i}.{part}"
    missing = [name for name in names if prefix + name not in arrays]
    if missing:
        raise CheckpointError(
            f"{path} is no PopSAN checkpoint: it lacks {missing}; it has {sorted(arrays)[:8]}"
        )
    weights = {ours: arrays[prefix + theirs] for theirs, ours in names.items()}
    for name, value in weights.items():
        # In float32, which is what will be used: a larger number is infinite there.
        if not value.is_floating_point() or not torch.isfinite(value.float()).all():
            raise CheckpointError(f"{path}: {name} must hold finite float32 numbers")
    if (weights["encoder.std"].float() == 0).any():
        raise CheckpointError(f"{path}: encoder.std must not be 0")
    # PopSAN keeps axes for batch and convolution: [1, obs_dim, P] and [action_dim, 1, P].
    for name in ("encoder.mean", "encoder.std", "decoder.weight"):
        axis = 0 if name.startswith("encoder") else 1
        if weights[name].dim() != 3 or weights[name].shape[axis] != 1:
            raise CheckpointError(f"{path}: {name} has shape {tuple(weights[name].shape)}")
        weights[name] = weights[name].squeeze(axis)
    return {name: value.float() for name, value in weights.items()}


def _check_chain(weights: dict[str, Tensor], mean: Tensor, var: Tensor, path: Path) -> None:
    """The shapes must make a network, from the statistics to the decoder."""
    empty = [name for name, value in weights.items() if value.numel() == 0]
    if empty:
        raise CheckpointError(f"{path}: {empty} are empty")
    obs_dim, pop = weights["encoder.mean"].shape
    width = obs_dim * pop
    expected: dict[str, tuple[int, ...]] = {"encoder.std": (obs_dim, pop)}
    layers = sum(name.startswith("mlp.") and name.endswith("weight") for name in weights)
    for i in range(layers):
        weight = weights[f"mlp.linears.{i}.weight"]
        rows = weight.shape[0] if weight.dim() else 0
        expected[f"mlp.linears.{i}.weight"] = (rows, width)
        expected[f"mlp.linears.{i}.bias"] = (rows,)
        width = rows
    actions = weights["decoder.weight"].shape[0]
    expected["decoder.weight"] = (actions, width // max(actions, 1))
    expected["decoder.bias"] = (actions,)
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{path}: {name} must have shape {shape}, got {tuple(weights[name].shape)}"
            )
    for name, statistic in (("obs_mean", mean), ("obs_var", var)):
        if statistic.shape != (obs_dim,) or not torch.isfinite(statistic).all():
            raise CheckpointError(f"{path}: {name} must be {obs_dim} finite numbers")
    if (var < 0).any():
        raise CheckpointError(f"{path}: obs_var must not be negative")


def _policy_kwargs(weights: dict[str, Tensor]) -> dict[str, Any]:
    """What the shapes say about the network; critics as PopSAN's."""
    layers = sum(name.startswith("mlp.") and name.endswith("bias") for name in weights)
    hidden = [weights[f"mlp.linears.{i}.bias"].shape[0] for i in range(layers - 1)]
    return {
        "net_arch": {"pi": hidden, "qf": [256, 256]},
        "encoder_pop_size": weights["encoder.mean"].shape[1],
        "decoder_pop_size": weights["decoder.weight"].shape[1],
        "recipe": "popsan",
    }


def _free_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    # encoder_range is where PopSAN clips; the file's own fields replace those of encoder_std.
    fixed = {
        "net_arch", "encoder_pop_size", "decoder_pop_size", "normalize_obs", "encoder_range",
        "encoder_std", "encoder_v_init", "intra_layer", "batch_norm", "recipe",
    }  # fmt: skip
    clash = sorted(fixed & set(kwargs or {}))
    if clash:
        raise ValueError(f"policy_kwargs {clash} are given by the checkpoint; leave them out")
    return dict(kwargs or {})


def _fill(
    actor: SpikingActor, weights: dict[str, Tensor], mean: Tensor, var: Tensor, path: Path
) -> None:
    network = actor.mu
    for name, size, need in (
        ("observation", network.encoder.obs_dim, weights["encoder.mean"].shape[0]),
        ("action", network.decoder.action_dim, weights["decoder.weight"].shape[0]),
    ):
        if size != need:
            raise CheckpointError(
                f"{path} is for {need} {name} dimensions, the environment has {size}"
            )
    assert network.normalizer is not None
    network.normalizer.running_mean.copy_(mean)
    network.normalizer.running_var.copy_(var)
    # The published statistics hold a million steps and more; new data shall move them slowly.
    network.normalizer.running_count.fill_(MAX_COUNT)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("normalizer.") for name in missing)
