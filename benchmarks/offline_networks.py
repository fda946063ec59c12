"""Networks and recipe of the offline runs: one size, optimizer and schedule for all.

Tokens, embedding, blocks and loss are each network's own. What a variant changes stands in its
name: `dsformer-pssa-ptbn-30` goes from layer to batch statistics over 30 % of the steps; `both` are
neurons that count their input, and tokens without the action before.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from d3rlpy.algos import DecisionTransformerConfig
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import AdamWFactory
from d3rlpy.preprocessing import MultiplyRewardScaler, StandardObservationScaler

from d3rlpy_spiking import (
    ContinuousSTRLConfig,
    DSFormerConfig,
    SpikingDecisionTransformerConfig,
    WarmupCosineFactory,
)


@dataclass(frozen=True)
class Recipe:
    """What all networks of a comparison share."""

    width: int = 64
    layers: int = 3
    heads: int = 1
    # environment steps
    context: int = 20
    batch: int = 64
    # gradient steps
    steps: int = 3000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    # largest norm of the gradient
    clip: float = 0.25
    # part of the steps until the full learning rate
    warmup: float = 0.1
    # factor on the start gain of spiking branches' last norms; the dense one has none
    branch_gain: float = 1.0
    # arithmetic of the spiking networks' matmuls; the dense one computes in float32
    matmul: str = "bf16"


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        config: its config class.
        fields: what differs from the config's defaults.
        ptbn: part of the steps until PTBN uses batch statistics alone.
    """

    config: type[Any]
    fields: dict[str, Any] = field(default_factory=dict)
    ptbn: float = 0.1


def _dsformer(attention: str, ptbn: float = 0.1, **fields: Any) -> Network:
    return Network(DSFormerConfig, {"attention": attention, **fields}, ptbn)


# Spikes that count a neuron's input: no leak, and a reset by subtraction with its exact gradient.
_COUNTING: dict[str, Any] = {"v_decay": 1.0, "reset_mode": "soft", "detach_reset": False}

NETWORKS: dict[str, Network] = {
    "dt": Network(DecisionTransformerConfig),
    "dsformer-pssa": _dsformer("pssa"),
    "dsformer-tssa": _dsformer("tssa"),
    "dsformer-sssa": _dsformer("sssa"),
    "sdt": Network(SpikingDecisionTransformerConfig),
    "strl": Network(ContinuousSTRLConfig),
    # with d3rlpy's embedding of the timestep, which the dense one and sdt read too
    "dsformer-pssa-time": _dsformer("pssa", timestep_embedding=True),
    "dsformer-tssa-time": _dsformer("tssa", timestep_embedding=True),
    "dsformer-sssa-time": _dsformer("sssa", timestep_embedding=True),
    # what keeps PSSA from the dense one's return: its own last action, and spikes of one bit
    "dsformer-pssa-blind": _dsformer("pssa", previous_action=False),
    "dsformer-pssa-counting": _dsformer("pssa", **_COUNTING),
    "dsformer-pssa-both": _dsformer("pssa", previous_action=False, **_COUNTING),
    "dsformer-tssa-both": _dsformer("tssa", previous_action=False, **_COUNTING),
    "dsformer-sssa-both": _dsformer("sssa", previous_action=False, **_COUNTING),
    "dsformer-pssa-tdln": _dsformer("pssa", normalization="tdln"),
    "dsformer-pssa-tdbn": _dsformer("pssa", normalization="tdbn"),
    "dsformer-pssa-ptbn-05": _dsformer("pssa", ptbn=0.05),
    "dsformer-pssa-ptbn-30": _dsformer("pssa", ptbn=0.3),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "main": ("dt", "dsformer-pssa", "dsformer-tssa", "dsformer-sssa", "sdt", "dsformer-pssa-both"),
    "parts": (
        *("dt", "dsformer-pssa", "dsformer-pssa-blind", "dsformer-pssa-counting"),
        "dsformer-pssa-both",
    ),
    "time": ("dsformer-pssa-time", "dsformer-tssa-time", "dsformer-sssa-time"),
    "norms": (
        *("dsformer-pssa", "dsformer-pssa-tdln", "dsformer-pssa-tdbn"),
        *("dsformer-pssa-ptbn-05", "dsformer-pssa-ptbn-30"),
    ),
    "memory": ("dt", "dsformer-tssa", "dsformer-pssa"),
}


def network_names(asked: list[str]) -> list[str]:
    """Names of networks from names and groups, each once.

    Raises:
        ValueError: if one is neither.
    """
    names: list[str] = []
    for name in asked:
        if name not in NETWORKS and name not in GROUPS:
            raise ValueError(
                f"{name!r} is no network and no group; choose among {', '.join(NETWORKS)}, or the "
                f"groups {', '.join(GROUPS)}"
            )
        names += GROUPS.get(name, (name,))
    return list(dict.fromkeys(names))


def make_config(name: str, recipe: Recipe, reward_scale: float = 0.001, **changes: Any) -> Any:
    """The config of a network.

    Args:
        name: one of NETWORKS.
        recipe: what it shares with the others.
        reward_scale: factor on rewards and returns-to-go.
        changes: further fields of a spiking network's config.
    """
    network = NETWORKS[name]
    fields: dict[str, Any] = {
        "batch_size": recipe.batch,
        "learning_rate": recipe.learning_rate,
        "context_size": recipe.context,
        "num_layers": recipe.layers,
        "num_heads": recipe.heads,
        "attn_dropout": 0.0,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "encoder_factory": VectorEncoderFactory([recipe.width], exclude_last_activation=True),
        "optim_factory": AdamWFactory(
            weight_decay=recipe.weight_decay,
            clip_grad_norm=recipe.clip,
            lr_scheduler_factory=WarmupCosineFactory(
                warmup_steps=max(round(recipe.warmup * recipe.steps), 1), total_steps=recipe.steps
            ),
        ),
        "observation_scaler": StandardObservationScaler(),
        "reward_scaler": MultiplyRewardScaler(reward_scale),
    }
    if network.config is not DecisionTransformerConfig:
        ptbn_steps = max(round(network.ptbn * recipe.steps), 1)
        fields |= {"matmul": recipe.matmul, "ptbn_steps": ptbn_steps, "monitor_every": 0}
        fields["branch_gain"] = recipe.branch_gain
        fields |= network.fields | changes
    return network.config(**fields)


def describe(name: str, recipe: Recipe) -> dict[str, Any]:
    """What a run's file says of network and recipe."""
    network = NETWORKS[name]
    return {
        "network": name,
        "config": network.config.get_type(),
        "fields": network.fields,
        "ptbn": network.ptbn,
        **dataclasses.asdict(recipe),
    }
