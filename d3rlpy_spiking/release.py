"""DSFormer's released weights as an algorithm of this library."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from d3rlpy.models import VectorEncoderFactory
from torch import Tensor

from d3rlpy_spiking.dsformer import DSFormer, DSFormerConfig

# Released name -> name behind the backbone's transformer; norms follow below.
_LAYERS = {
    "attn.q_m": "attention.query.current.linear",
    "attn.k_m": "attention.key.current.linear",
    "attn.v_m": "attention.value.current.linear",
    "attn.last_m": "attention.out.linear",
    "attn.q_ln": "attention.query.current.norm",
    "attn.k_ln": "attention.key.current.norm",
    "attn.v_ln": "attention.value.current.norm",
    "attn.last_ln": "attention.out.norm",
    "mlp.fc1": "mlp.up.current.linear",
    "mlp.fc2": "mlp.down.linear",
    "mlp.ln1": "mlp.up.current.norm",
    "mlp.ln2": "mlp.down.norm",
}
# Where the release keeps a norm's two branches, or its only one.
_NORMS = {"norm.norm1.ln": ".ln", "norm.norm2.bn": ".bn", "norm.ln": "", "norm.bn": ""}
_PTBN_COUNTERS = ("warm", "iter", "total_step")


def load_dsformer(
    path: str | Path,
    attention: str,
    normalization: str,
    num_heads: int = 1,
    spike_steps: int = 4,
    window_size: int = 8,
) -> DSFormer:
    """A DSFormer with the weights of a state dict in the names of its release.

    Sizes follow from the weights. What the file cannot say is asked for. The context length is that
    of PSSA's position matrix, or 20. PTBN's counter becomes the training progress, so training goes
    on where it stopped.

    Args:
        path: a .pt file with the state dict, or a .npz file with its arrays, bare or under
            "weight.".
        attention: "pssa", "tssa" or "sssa".
        normalization: "ptbn", "tdbn" or "tdln".
        num_heads: attention heads.
        spike_steps: T.
        window_size: steps that PSSA sees.

    Returns:
        the algorithm, built, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is neither .pt nor .npz, or its arrays are not such a state dict.

    Source: Huang et al. 2025 (DSFormer), released code.
    """
    released = _read(Path(path))
    state = _translate(released, window_size)
    try:
        width, joined = released["embed.weight"].shape
        action_size = released["predict_action.0.weight"].shape[0]
        num_layers = 1 + max(int(name.split(".")[1]) for name in released if name[:7] == "blocks.")
        position = released.get("blocks.0.attn.pos_bias")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no DSFormer in the names of its release: {error}") from None
    counters = {
        name: released[f"blocks.0.attn.q_ln.norm.{name}"]
        for name in _PTBN_COUNTERS
        if f"blocks.0.attn.q_ln.norm.{name}" in released
    }
    config = DSFormerConfig(
        encoder_factory=VectorEncoderFactory([width], exclude_last_activation=True),
        attention=attention,  # type: ignore[arg-type]  # checked by the config
        normalization=normalization,  # type: ignore[arg-type]  # checked by the config
        num_heads=num_heads,
        num_layers=num_layers,
        spike_steps=spike_steps,
        window_size=window_size,
        context_size=20 if position is None else len(position),
        ptbn_steps=int(counters["total_step"]) if counters else 2000,
        mask_previous_action=False,
        mask_statistics=False,
        mix_surrogate_width=1.0,
    )
    algo = config.create()
    observation_size = joined - action_size - 1
    algo.create_impl((observation_size,), action_size)
    network = algo.impl.network
    _load(network, state, path)
    if counters:
        network.backbone.progress.set_step(int(counters["total_step"]) - int(counters["iter"]))
    return algo


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if name.startswith("weight.")] or arrays.files
            prefix = "weight." if names[0].startswith("weight.") else ""
            return {
                name.removeprefix(prefix): torch.from_numpy(arrays[name])
                for name in names
                if arrays[name].dtype.kind in "fiub"
            }
    if path.suffix != ".pt":
        raise ValueError(f"path must end in '.pt' or '.npz', got {path}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} must hold a state dict, got {type(state).__name__}")
    return dict(state)


def _translate(released: Mapping[str, Tensor], window: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in released.items():
        if name in ("embed.weight", "embed.bias"):
            continue
        ours = _name(name)
        if ours is not None:
            state[ours] = _band(value, window) if name.endswith("pos_bias") else value
    if "embed.weight" in released and "predict_action.0.weight" in released:
        # One layer on [state, previous action, return-to-go], split by its inputs.
        actions = released["predict_action.0.weight"].shape[0]
        weight = released["embed.weight"]
        sizes = [weight.shape[1] - actions - 1, actions, 1]
        state_weight, action_weight, rtg_weight = weight.split(sizes, dim=1)
        state["encoder._layers.0.weight"] = state_weight
        state["encoder._layers.0.bias"] = released["embed.bias"]
        state["action_embed.weight"] = action_weight
        state["rtg_embed.weight"] = rtg_weight
    return state


def _name(name: str) -> str | None:
    """Our name for a released one; None for what has none here (counters, masks)."""
    if name.endswith(".local_mask"):
        return None
    if name.startswith("predict_action.0."):
        return name.replace("predict_action.0", "head")
    if name.endswith("pos_bias"):
        return f"backbone.transformer.{name.replace('attn.pos_bias', 'attention.mix.weight')}"
    block = re.match(r"(blocks\.\d+)\.(\w+\.\w+)\.(.+)", name)
    if block is not None and block[2] in _LAYERS:
        return _norm(f"backbone.transformer.{block[1]}.{_LAYERS[block[2]]}", block[3])
    if name.startswith("last_ln."):
        return _norm("backbone.transformer.norm", name.removeprefix("last_ln."))
    return name  # the embedding's norm; what is unknown, the check of the state dict names


def _norm(prefix: str, rest: str) -> str | None:
    """Our name for a layer's parameter, where it is one of a norm's branches too."""
    for released, ours in _NORMS.items():
        if rest.startswith(released + "."):
            return f"{prefix}{ours}.{rest.removeprefix(released + '.')}"
    return None if rest.startswith("norm.") else f"{prefix}.{rest}"  # None: PTBN's counters


def _band(matrix: Tensor, window: int) -> Tensor:
    """P [L, L] -> weights [L, window] by distance; those before the first token are 0."""
    length = len(matrix)
    query = torch.arange(length)[:, None]
    key = query - torch.arange(min(window, length))
    return torch.where(key >= 0, matrix[query, key.clamp_min(0)], 0.0)


def _load(network: torch.nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    own = network.state_dict()
    missing = [n for n in own if n not in state and ".progress." not in n]
    extra = [n for n in state if n not in own]
    shapes = [n for n in state if n in own and state[n].shape != own[n].shape]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} does not fit attention, normalization and sizes: missing {missing[:3]}, "
            f"not expected {extra[:3]}, of another shape {shapes[:3]}; pass the attention and "
            "normalization that it was trained with"
        )
    network.load_state_dict(own | state)
