"""Spiking and dense actors of falling size, and what a decision of each costs.

The default list answers what could cost 22 % of a dense actor. Constants are 45 nm, float32: 4.6 pJ
a multiply-accumulate, 0.9 pJ an accumulate. What follows from them:

*   A receptive field costs two multiply-accumulates, whatever fires. That floor counts only beside
    the smallest dense actors: 5 fields for each of 11 observations are 0.5 nJ, and a dense actor of
    16 and 16 neurons costs 2.2 nJ.
*   More fields do not fire more: their width follows their spacing, so that their activations add
    up to about 1.46 an observation however many they are, and spikes to less, since the integrator
    keeps what does not reach its threshold. The first layer's accumulates follow the number of
    observations, T and its own width.
*   An analog encoder pays a multiply-accumulate for each field and neuron, once. Spikes are cheaper
    as long as rate x T is below 4.6 / 0.9 = 5.1: always, at T = 5. None is in the list.
*   The layer between two hidden ones is the largest part, as in a dense network; a single hidden
    layer has none.
*   The membrane readout adds where the rate's multiplies. It matters in the smallest actors alone.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.studies.measure import count
from policies.actor import PopulationActor
from policies.energy import DEFAULT_COSTS, OperationCosts, OperationCount
from sb3_spiking.options import SpikingOptions, from_recipe

BUDGET = "sb3_spiking.synops_budget.SynopsBudgetCallback"
# Hidden layers of all critics.
CRITIC = [256, 256]


@dataclass(frozen=True)
class Actor:
    """An actor of the curve.

    Attributes:
        name: shown, and the folder of its runs.
        hidden: neurons of each hidden layer.
        spiking: further policy_kwargs of a spiking actor, its recipe among them; None: a dense
            one.
        budget: accumulates of a decision that its price of spikes is found for while it trains.
    """

    name: str
    hidden: tuple[int, ...]
    spiking: Mapping[str, Any] | None = field(default=None, hash=False)
    budget: int | None = None

    def policy_kwargs(self) -> dict[str, Any]:
        """What the algorithm is given; the critics are the same for all."""
        return {"net_arch": {"pi": list(self.hidden), "qf": CRITIC}, **(self.spiking or {})}

    def callbacks(self) -> list[Any]:
        """What trains it beside the algorithm, as RL Zoo has it in files."""
        return [] if self.budget is None else [{BUDGET: {"budget": self.budget}}]

    def options(self) -> SpikingOptions:
        """The options of a spiking actor."""
        assert self.spiking is not None
        return SpikingOptions(**from_recipe(dict(self.spiking)))

    def variant(self, suffix: str, further: Mapping[str, Any]) -> "Actor":
        """A spiking actor of the same size with further policy_kwargs, "NAME-SUFFIX"."""
        assert self.spiking is not None
        return replace(self, name=f"{self.name}-{suffix}", spiking={**self.spiking, **further})


def spiking(
    name: str,
    *hidden: int,
    fields: int,
    steps: int,
    out: int,
    budget: int | None = None,
    **more: Any,
) -> Actor:
    """A spiking actor, of counting neurons where `more` has no other recipe.

    Args:
        name: of the actor.
        hidden: neurons of each hidden layer.
        fields: receptive fields an observation.
        steps: spike steps of a decision.
        out: output neurons an action.
        budget: accumulates of a decision, see Actor.
        more: further policy_kwargs.
    """
    options = {
        "recipe": "counting",
        "encoder_pop_size": fields,
        "spike_steps": steps,
        "decoder_pop_size": out,
        "matmul_backward": "bf16",  # as zoo_configs/td3.yml: time only
        **more,
    }
    return Actor(name, hidden, options, budget)


BN: dict[str, Any] = {"recipe": "popsan", "batch_norm": True}
# With the encoder's multiply-accumulates, 22 % of the energy of dense actors of 256 and 256 neurons
# are 78,000 accumulates on HalfCheetah.
BUDGET_22 = 72_000
SPIKING = (
    spiking("popsan-256", 256, 256, fields=10, steps=5, out=10, recipe="popsan"),
    spiking("s256-t10", 256, 256, fields=10, steps=10, out=10),  # zoo_configs/td3.yml's
    spiking("s256-t4", 256, 256, fields=5, steps=4, out=5),
    # The actor of the online runs of `batch_norm`; with a budget of operations, from two prices.
    spiking("bn256-t5", 256, 256, fields=10, steps=5, out=10, **BN),
    *(
        spiking(
            f"bn256-t5-72k-p{price:g}",
            256,
            256,
            fields=10,
            steps=5,
            out=10,
            budget=BUDGET_22,
            **BN,
            synops_penalty=price,
        )
        for price in (0.001, 0.0001)
    ),
    spiking("bn256-t4-p0.1", 256, 256, fields=5, steps=4, out=5, **BN, synops_penalty=0.1),
    spiking("bn160-t5", 160, 160, fields=10, steps=5, out=5, **BN),
    spiking("s128-t5", 128, 128, fields=5, steps=5, out=5),
    spiking("s64-t5", 64, 64, fields=5, steps=5, out=5),
    spiking("s64-t3", 64, 64, fields=5, steps=3, out=5),
    spiking("s32-t3", 32, 32, fields=5, steps=3, out=5),
    spiking("s48-single-t4", 48, fields=5, steps=4, out=5),
    spiking("s24-single-t3", 24, fields=3, steps=3, out=3),
    spiking("direct-t3", fields=3, steps=3, out=1),
)
# A dense actor that keeps its return with few products is the measure of the spiking ones: down to
# a linear one.
DENSE = (
    *(Actor(f"dense-{size}", (size, size)) for size in (256, 128, 64, 32, 16, 8)),
    *(Actor(f"dense-{size}-single", (size,)) for size in (48, 16)),
    Actor("dense-direct", ()),
)
ACTORS = {actor.name: actor for actor in (*SPIKING, *DENSE)}


class Rates(NamedTuple):
    """Spikes a neuron and spike step."""

    encoder: float
    hidden: float


def operations(actor: Actor, obs_dim: int, action_dim: int, rates: Rates) -> tuple[float, float]:
    """Accumulates and multiply-accumulates of a decision, on paper.

    A dense actor's are all its products, zeros included.

    Args:
        actor: which; normalized observations, no zero weights.
        obs_dim: observations.
        action_dim: actions.
        rates: of the encoder's neurons, and of all others.
    """
    if actor.spiking is None:
        sizes = (obs_dim, *actor.hidden, action_dim)
        return 0.0, float(sum(n * m for n, m in itertools.pairwise(sizes)))
    options = actor.options()
    steps, fields = options.spike_steps, obs_dim * options.encoder_pop_size
    sizes = (fields, *actor.hidden, action_dim * options.decoder_pop_size)
    products = [float(n * m) for n, m in itertools.pairwise(sizes)]
    multiply = obs_dim + 2.0 * fields
    adds = steps * rates.hidden * sum(products[1:])
    if options.encoder == "analog":
        multiply += products[0]
    else:
        adds += steps * rates.encoder * products[0]
    if options.decoder == "membrane":
        adds += steps * rates.hidden * sizes[-1]
    else:  # one product a neuron that fired at all, as if its spikes were independent
        multiply += sizes[-1] * (1.0 - (1.0 - rates.hidden) ** steps)
    return adds, multiply


def untrained(actor: Actor, obs: Tensor, action_dim: int) -> nn.Module:
    """The actor's network with initial weights; its normalizer knows obs [N, obs_dim]."""
    torch.manual_seed(0)
    if actor.spiking is None:
        sizes = (obs.shape[1], *actor.hidden, action_dim)
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Linear(n, m), nn.ReLU()]
        return nn.Sequential(*layers[:-1], nn.Tanh())
    config = actor.options().actor_config(list(actor.hidden))
    network = PopulationActor(obs.shape[1], action_dim, config)
    if network.normalizer is not None:
        network.normalizer.update(obs)
    return network


@dataclass(frozen=True)
class Cost:
    """What a decision of an actor costs.

    Attributes:
        actor: which.
        counted: operations of the untrained network on observations.
        encoder_rate: its encoder's firing rate there; None for a dense one.
        hidden_rate: the mean rate of its other neurons, by layer.
        assumed: nJ on paper, by assumed rate of the other neurons.
    """

    actor: Actor
    counted: OperationCount
    encoder_rate: float | None
    hidden_rate: tuple[float, ...]
    assumed: dict[float, float]


def cost(
    actor: Actor,
    obs: Tensor,
    action_dim: int,
    assumed: Sequence[float],
    costs: OperationCosts = DEFAULT_COSTS,
) -> Cost:
    """Count an untrained actor on obs [N, obs_dim], and price it at assumed rates."""
    found = count(untrained(actor, obs, action_dim), obs)
    rates = found.firing_rates
    encoder = rates.pop("encoder", None)
    at = Rates(0.0 if encoder is None else encoder, 0.0)
    priced = {
        rate: costs.energy_nj(
            *operations(actor, obs.shape[1], action_dim, at._replace(hidden=rate))
        )
        for rate in assumed
    }
    return Cost(actor, found, encoder, tuple(rates.values()), priced)
