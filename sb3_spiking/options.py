"""The spiking keywords of policy_kwargs: flat plain values, and sets of defaults by name."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from gymnasium import spaces
from torch import nn

from policies.actor import PopulationBody
from policies.config import (
    CurrentLIFConfig,
    DecoderConfig,
    DecoderKind,
    EncoderConfig,
    EncoderKind,
    LIFConfig,
    NeuronConfig,
    PopulationActorConfig,
    ResetMode,
    check_choice,
    check_count,
    check_range,
)
from policies.kernels.choice import Kernel, Matmul, MatmulBackward
from policies.value import ValueNetwork
from sb3_spiking.bounds import fix_bounds
from sb3_spiking.proxy import ProxyTarget

NeuronKind = Literal["current_lif", "lif"]

# Keywords that algorithms add to the user's policy_kwargs, where the next algorithm finds them.
WRITTEN_BY = {
    "use_sde": "SAC, TQC and CrossQ write it",
    "n_critics": "DDPG writes it, and others take it,",
}


# Sets of defaults, by the keyword `recipe`; keywords that are given go before a recipe's.
RECIPES: dict[str, dict[str, Any]] = {
    # Tang et al. 2020: the defaults below.
    "popsan": {},
    # Neurons without leak whose spikes count their input, and a readout that sums them: a smoother
    # function of the observation, which takes the dense policy's learning rate.
    "counting": {
        "neuron": "lif",
        "v_decay": 1.0,
        "reset_mode": "soft",
        "encoder_v_init": 0.5,
        "decoder": "membrane",
        "actor_lr_scale": 1.0,
    },
}


def from_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """The given options, but the name of their recipe, and what that adds to them.

    Raises:
        ValueError: if there is no such recipe.
    """
    recipe = given.pop("recipe", "popsan")
    check_choice("recipe", recipe, tuple(RECIPES))
    chosen = dict(RECIPES[recipe])
    if given.get("encoder") == "analog":  # which has no membrane
        chosen.pop("encoder_v_init", None)
    return {**chosen, **given}


def _plain(value: Any) -> Any:
    """A numpy scalar (from a sweep, say) as Python's own number: options are saved as they are."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, kw_only=True)
class SpikingOptions:
    """What a spiking policy accepts in policy_kwargs beside its dense counterpart's keywords.

    Raises:
        ValueError: if a value is out of range or a name unknown; the valid ones are listed.
        TypeError: if a value has the wrong type.
    """

    # spike steps per decision (T), >= 1
    spike_steps: int = 5
    # encoder neurons per feature, >= 1
    encoder_pop_size: int = 10
    # output neurons per action dimension, >= 1
    decoder_pop_size: int = 10
    # spike generation: "deterministic", "poisson" (deterministic where predict asks), "analog"
    encoder: EncoderKind = "deterministic"
    # receptive fields start evenly spaced on +- this, in standard deviations, > 0
    encoder_range: float = 3.0
    # initial std of the receptive fields, > 0; None: 0.58 x their spacing
    encoder_std: float | None = None
    # membrane that the deterministic encoder starts with, relative to its threshold, [0, 1): 0
    # (PopSAN) rounds a field's spikes down, 0.5 to the nearest number; "poisson" has it where
    # predict asks for no draws, "analog" has none
    encoder_v_init: float = 0.0
    # readout: "rate" or "membrane"
    decoder: DecoderKind = "rate"
    # neuron of every layer: "current_lif" or "lif"
    neuron: NeuronKind = "current_lif"
    # membrane decay per spike step, [0, 1]
    v_decay: float = 0.75
    # decay of the synaptic current per spike step, [0, 1]; "lif" has none
    i_decay: float = 0.5
    # firing threshold, > 0
    v_threshold: float = 0.5
    # after a spike: "hard" sets the membrane to 0 (PopSAN), "soft" subtracts the threshold
    reset_mode: ResetMode = "hard"
    # surrogate derivative: "rectangle", "sigmoid", "arctan", "triangle"
    surrogate: str = "rectangle"
    # its width, > 0, in units of v
    surrogate_width: float = 1.0
    # in front of the encoder: True, a running z-score; "bounds", the observation space's bounds
    # and a running z-score where it has none; False, nothing
    normalize_obs: bool | Literal["bounds"] = True
    # batch normalization in the actor (TD3, DDPG, SAC, TQC), see sb3_spiking.batch_norm
    batch_norm: bool = False
    # the actor's learning rate relative to the algorithm's, > 0
    actor_lr_scale: float = 0.3
    # TD3, DDPG, SAC, TQC: a dense network that learns to copy the actor stands in as its target
    proxy_target: bool = False
    # its hidden layers
    proxy_arch: tuple[int, ...] = (512, 512)
    # its updates for each of the actor's, >= 1
    proxy_steps: int = 3
    # its learning rate, > 0
    proxy_lr: float = 1e-3
    # True: critics and value networks spike as well; in DQN, QR-DQN and ARS there is no other
    spiking_critic: bool = False
    # neurons at the end of a spiking value network (DQN's, a spiking critic), >= 1
    value_pop_size: int = 128
    # factor on the level that its values share, > 0; see policies.value
    value_gain: float = 10.0
    # arithmetic of spikes times weights: "exact", "float32" or "bf16"
    matmul: Matmul = "exact"
    # operands of backward's matmuls: "float32" or "bf16"; "auto": "bf16" if matmul is
    matmul_backward: MatmulBackward = "auto"
    # what runs the neurons: "torch", "fused", "numba", "triton"; "auto": the fastest at hand
    kernel: Kernel = "auto"
    # True: each action's output neurons feed their spikes back to each other at the next spike
    # step, in actors only; Chen et al. 2024 (ILC-SAN), policies.intra_layer
    intra_layer: bool = False
    # what 1000 synaptic operations of a decision cost the actor in units of its loss, >= 0, in
    # training only; policies.synops
    synops_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice("neuron", self.neuron, get_args(NeuronKind))
        check_range("i_decay", self.i_decay, 0.0, 1.0)
        check_range("actor_lr_scale", self.actor_lr_scale, 0.0, open_low=True)
        arch: Any = self.proxy_arch  # a list, from YAML
        if isinstance(arch, str) or not isinstance(arch, Sequence):
            raise TypeError(
                f"proxy_arch must be a list of layer sizes such as [512, 512], got {arch!r}"
            )
        object.__setattr__(self, "proxy_arch", tuple(arch))
        for size in self.proxy_arch:
            check_count("proxy_arch sizes", size)
        check_count("proxy_steps", self.proxy_steps)
        check_range("proxy_lr", self.proxy_lr, 0.0, open_low=True)
        check_count("value_pop_size", self.value_pop_size)
        check_range("value_gain", self.value_gain, 0.0, open_low=True)
        for name in ("batch_norm", "spiking_critic", "proxy_target"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        if not isinstance(self.normalize_obs, bool) and self.normalize_obs != "bounds":
            raise TypeError(
                f"normalize_obs must be True, False or 'bounds', got {self.normalize_obs!r}"
            )
        self.actor_config([])  # the rest is checked where it is used

    @classmethod
    def take_from(
        cls, kwargs: dict[str, Any], dense: Callable[..., Any]
    ) -> tuple[Self, dict[str, Any]]:
        """Split policy_kwargs into the spiking options and the keywords of the dense constructor.

        A name of both is the dense constructor's: CrossQ's `batch_norm` is about its critics.

        Raises:
            TypeError: if a keyword belongs to neither; the message names the closest ones.
        """
        theirs = set(inspect.signature(dense).parameters)
        own = cls.names() - theirs
        known = own | theirs
        for name in kwargs:
            if name in known:
                continue
            if name in WRITTEN_BY:
                raise TypeError(
                    f"unknown keyword {name!r} in policy_kwargs: {WRITTEN_BY[name]} into the dict "
                    "that they are given. If this dict served such an algorithm before, give each "
                    "its own, policy_kwargs=dict(kwargs); if you pass a policy class, pass the "
                    "name 'SpikingPopPolicy', which finds the right one"
                )
            close = difflib.get_close_matches(name, sorted(known), n=3) or sorted(own)
            raise TypeError(
                f"unknown keyword {name!r} in policy_kwargs; did you mean one of {close}?"
            )
        given = {name: _plain(value) for name, value in kwargs.items() if name in own}
        options = cls(**from_recipe(given))
        return options, {name: value for name, value in kwargs.items() if name not in own}

    @classmethod
    def names(cls) -> set[str]:
        """The keywords of policy_kwargs that are spiking ones."""
        return {field.name for field in fields(cls)} | {"recipe"}

    def as_kwargs(self) -> dict[str, Any]:
        """The options as the flat keywords they came from."""
        return asdict(self)

    def neuron_config(self) -> NeuronConfig:
        """Settings of the spiking layers."""
        common: dict[str, Any] = {
            "v_decay": self.v_decay,
            "v_threshold": self.v_threshold,
            "reset_mode": self.reset_mode,
            "surrogate": self.surrogate,
            "surrogate_width": self.surrogate_width,
        }
        if self.neuron == "lif":
            return LIFConfig(**common)
        return CurrentLIFConfig(i_decay=self.i_decay, **common)

    def actor_config(
        self,
        net_arch: list[int],
        *,
        squash: bool = True,
        defer_normalizer: bool = False,
    ) -> PopulationActorConfig:
        """The core's settings for an actor with these hidden layers."""
        return PopulationActorConfig(
            hidden_sizes=tuple(net_arch),
            spike_steps=self.spike_steps,
            encoder=EncoderConfig(
                pop_size=self.encoder_pop_size,
                kind=self.encoder,
                field_range=self.encoder_range,
                std=self.encoder_std,
                v_init=self.encoder_v_init,
            ),
            neuron=self.neuron_config(),
            decoder=DecoderConfig(pop_size=self.decoder_pop_size, kind=self.decoder),
            normalize=self.normalize_obs is not False,
            defer_normalizer=defer_normalizer,
            squash=squash,
            batch_norm=self.batch_norm,
            matmul=self.matmul,
            matmul_backward=self.matmul_backward,
            kernel=self.kernel,
            intra_layer=self.intra_layer,
            synops_penalty=self.synops_penalty,
        )

    def proxy(self, features: int, values: int, *, squash: bool) -> ProxyTarget:
        """A dense network that learns to answer as an actor does."""
        return ProxyTarget(
            features, values, self.proxy_arch, self.proxy_steps, self.proxy_lr, squash
        )

    def value_config(
        self, net_arch: list[int], *, defer_normalizer: bool = False
    ) -> PopulationActorConfig:
        """The core's settings for a value network with these hidden layers.

        Without what only actors have.
        """
        config = self.actor_config(net_arch, squash=False, defer_normalizer=defer_normalizer)
        decoder = replace(config.decoder, pop_size=self.value_pop_size)
        return replace(
            config, decoder=decoder, intra_layer=False, synops_penalty=0.0, batch_norm=False
        )

    def refuse_for_values(self, algorithm: str) -> None:
        """Raise ValueError if an option is set that only an actor has, where there is none."""
        if self.intra_layer:
            raise ValueError(
                f"intra_layer=True connects the output neurons of an actor, and {algorithm} has "
                "none: leave it out"
            )
        self.refuse_penalty(f"{algorithm} has no actor")

    def refuse_penalty(self, reason: str) -> None:
        """Raise ValueError if the actor's operations are to be charged, with why they cannot be."""
        if self.synops_penalty:
            raise ValueError(
                "synops_penalty joins the gradient of an actor's loss on its way back, but "
                f"{reason}: leave it out, got {self.synops_penalty!r}"
            )

    def fix_bounds(
        self, body: PopulationBody, space: spaces.Space[Any], extractor: nn.Module
    ) -> None:
        """With normalize_obs="bounds": let a network that sees the features use their bounds."""
        if self.normalize_obs == "bounds":
            fix_bounds(body, space, extractor)

    def value_network(self, features: int, values: int, net_arch: list[int]) -> ValueNetwork:
        """A value network with these hidden layers."""
        return ValueNetwork(features, values, self.value_config(net_arch), self.value_gain)
