"""DSFormer's one-token inference: the window recomputed, and one token appended to a cache."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed import choices
from benchmarks.speed.actor import ACTIONS, OBS
from benchmarks.speed.dsformer_models import DENSE, PLAIN, Size, dense, ours
from benchmarks.speed.dsformer_plain import PlainDSFormer
from benchmarks.speed.harness import Call, Options, race
from benchmarks.speed.table import Goal, Section
from d3rlpy_spiking import DSFormerConfig
from d3rlpy_spiking.recording import recorded_rates, summary
from policies.transformer import SpikingTransformer

GOAL = Goal(5.0)
# Outputs are of size 1; sums are taken in another order.
EQUAL = 1e-5
# Training forwards that bring batch statistics to what the layers really carry.
SETTLING = 40


def settle(network: SpikingTransformer, batch: int) -> SpikingTransformer:
    """Give norms the statistics of their input, so that neurons fire as in a trained network."""
    generator = torch.Generator().manual_seed(0)
    network.train()
    with torch.no_grad():
        for _ in range(SETTLING):
            network(tokens(network, batch, generator))
    return network.eval()


def tokens(network: SpikingTransformer, batch: int, generator: torch.Generator) -> Tensor:
    """Random embedded tokens, [B, L, D]."""
    config = network.config
    return torch.randn(batch, config.context, config.width, generator=generator)


def settled(size: Size, choice: choices.Choice) -> Any:
    """A DSFormer that fires."""
    algo = ours(size, choice)
    settle(algo.impl.network.backbone.transformer, min(size.batch, 8))
    return algo


def deciding(algo: Any, size: Size) -> Call:
    """One decision of d3rlpy's stateful wrapper, its context full."""
    wrapper = algo.as_stateful_wrapper(100.0)
    rng = np.random.default_rng(0)
    for _ in range(size.context + 1):
        wrapper.predict(rng.standard_normal(OBS).astype(np.float32), 1.0)
    obs = rng.standard_normal(OBS).astype(np.float32)
    return lambda: wrapper.predict(obs, 1.0)


def deciding_incrementally(algo: Any, size: Size) -> Call:
    """As many decisions as a context holds, each appending one token."""
    wrapper = algo.as_incremental_wrapper(100.0)
    rng = np.random.default_rng(0)
    observations = list(rng.standard_normal((size.context, OBS)).astype(np.float32))

    def call() -> None:
        for obs in observations:
            wrapper.predict(obs, 1.0)

    return call


def plain_deciding(size: Size) -> Call:
    """One decision of the plain version: the whole window anew."""
    torch.manual_seed(0)
    network = PlainDSFormer(
        OBS, ACTIONS, size.width, size.layers, size.context, steps=size.steps
    ).eval()
    generator = torch.Generator().manual_seed(0)
    obs, action, rtg = (
        torch.randn(1, size.context, n, generator=generator) for n in (OBS, ACTIONS, 1)
    )
    mask = torch.ones(1, size.context)

    def call() -> None:
        with torch.no_grad():
            network(obs, action, rtg, mask)[0, -1].numpy()

    return call


def recomputing(network: SpikingTransformer, window: Tensor) -> Call:
    """The transformer on a full window [1, L, D]."""

    def call() -> None:
        with torch.no_grad():
            network(window)

    return call


def appending(network: SpikingTransformer, window: Tensor) -> Call:
    """As many tokens as a context holds, one by one: whenever it is full, it slides by half."""
    from policies.incremental import IncrementalTransformer

    cache = IncrementalTransformer(network)

    def call() -> None:
        for token in window[0]:
            cache.append(token)

    return call


def difference(network: SpikingTransformer, window: Tensor) -> float:
    """Largest difference between appended tokens and the window's."""
    from policies.incremental import IncrementalTransformer

    cache = IncrementalTransformer(network)
    with torch.no_grad():
        appended = torch.stack([cache.append(token) for token in window[0]])
        return float((appended - network(window)[0]).abs().max())


def firing_rate(network: SpikingTransformer, window: Tensor) -> float:
    """Mean over layers of the spikes a neuron and spike step, on a window."""
    with torch.no_grad(), recorded_rates(network) as rates:
        network(window)
    return summary(rates)["firing_rate"]


def whole_decision(options: Options, size: Size) -> Section:
    """`predict` of the stateful wrapper."""
    section = Section(
        "DSFormer, one decision",
        f"how many times faster than the {PLAIN}",
        notes=[
            "Stateful wrapper's predict, batch 1, full context, the window recomputed; the plain "
            "version's network alone. Incremental: the incremental wrapper's, mean over a whole "
            "context, slides included."
        ],
    )
    spiking = list(choices.plain(DSFormerConfig))
    calls = {choice.label: deciding(settled(size, choice), size) for choice in spiking}
    folded = settled(size, spiking[0]).fold()
    calls[f"{spiking[0].label}, folded"] = deciding(folded, size)
    calls |= {PLAIN: plain_deciding(size), DENSE: deciding(dense(size), size)}
    incremental = f"{spiking[0].label}, incremental"
    if hasattr(folded, "as_incremental_wrapper"):
        calls[incremental] = deciding_incrementally(settled(size, spiking[0]), size)
    times = race(calls, options.repeats)
    for name, ms in times.items():
        ms = ms / size.context if name == incremental else ms
        reference = None if name == PLAIN else times[PLAIN]
        section.add(name, f"context {size.context}", ms, reference)
    return section


def one_token(options: Options, size: Size) -> Section:
    """The transformer alone: a token appended against the window recomputed."""
    section = Section(
        "DSFormer, one-token inference of the transformer alone",
        "how many times faster than recomputing the window with the same weights and matmul",
    )
    column = f"context {size.context}"
    if find_spec("policies.incremental") is None:
        section.skip("ours, incremental", column, "not in this version")
        return section
    goals: dict[str, Goal | None] = {}
    calls, notes = {}, []
    cached: list[str] = []
    for choice in choices.plain(DSFormerConfig):
        network = settled(size, choice).impl.network.backbone.transformer
        window = tokens(network, 1, torch.Generator().manual_seed(1))
        calls[f"{choice.label}, window"] = recomputing(network, window)
        if choice.matmul == "bf16":
            # Appended tokens are computed in float32, with unrounded weights: the row above is it.
            goals[choice.label] = None
            continue
        cached.append(choice.label)
        calls[f"{choice.label}, incremental"] = appending(network, window)
        most = difference(network, window)
        # The goal asks for equal output.
        goals[choice.label] = GOAL if most < EQUAL else None
        notes.append(
            f"{choice.label}: outputs differ by {most:.1e} at most. Neurons fire in "
            f"{100.0 * firing_rate(network, window):.0f} % of spike steps, and the cost of "
            "event-driven matmuls grows with that share."
        )
    times = race(calls, options.repeats)
    for name, goal in goals.items():
        window_ms = times[f"{name}, window"]
        section.add(f"{name}, window", column, window_ms)
        if name not in cached:
            continue
        each = times[f"{name}, incremental"] / size.context
        section.add(f"{name}, incremental", column, each, window_ms, goal)
    section.notes = [
        "Incremental: mean over a whole context of tokens, slides included; in float32 whatever "
        "the matmul.",
        *notes,
    ]
    return section


def inference(options: Options, size: Size) -> list[Section]:
    """Both tables."""
    return [whole_decision(options, size), one_token(options, size)]
