"""DSFormer and the dense Decision Transformer at the paper's sizes; see benchmarks.energy."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch

from benchmarks.energy import layer_table, number, table
from benchmarks.energy_published import (
    AC,
    CONTEXT,
    HEADS,
    LAYERS,
    MAC,
    PUBLISHED_DSFORMER,
    PUBLISHED_DT,
    STEPS,
    explanation,
)  # fmt: skip
from d3rlpy_spiking import DSFormerConfig
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.datasets import load_npz
from d3rlpy_spiking.datasets.episodes import make_buffer
from d3rlpy_spiking.operations import count_operations
from policies.energy import DEFAULT_COSTS, OperationCount
from policies.normalization import TdBN

# Of the release's Hopper networks, where there are no data to tell.
OBSERVATION, ACTION = 11, 3
# Batches over which batch statistics are averaged.
WARM_UP = 8

RULE = f"""Counting rule, for one decision on a full context of {CONTEXT} steps:

- A linear layer costs its products of an input and a weight that are both not 0: an accumulate \
({AC} pJ) each where the input is spikes, else a multiply-accumulate ({MAC} pJ); no biases.
- The embedding runs once, the blocks at each of T spike steps, the head once on the mean.
- PSSA: an accumulate where query, key and value all fire within the window. Dense attention: a \
multiply-accumulate a feature for scores and for values, two a head, of each pair that is not later.
- Layer norms: two multiply-accumulates a value. Batch norms in evaluation: one, or, "folded" into \
the linear layers beside them, none.
- Left out: neurons' updates, residual additions, softmax's exponentials, all memory.
- Dense: all products at every spike step, zeros included.

Energy: {DEFAULT_COSTS.source}."""


def report(args: argparse.Namespace) -> str:
    """Both networks, as Markdown."""
    with quiet_logs():
        return _report(args)


def _report(args: argparse.Namespace) -> str:
    d3rlpy.seed(args.seed)
    algo, batch, origin = load(args) if args.model else fresh(args)
    folded = count_operations(algo, batch, norms="folded")
    columns = [
        ("DSFormer, norms folded", folded),
        ("DSFormer, norms charged", count_operations(algo, batch)),
        *((f"DT, D {width}", dense_transformer(width, batch)) for width in (256, 128)),
    ]
    rates = folded.firing_rates.values()
    parts = [
        "# DSFormer and Decision Transformer: energy of one decision",
        origin,
        RULE,
        summary(columns),
        f"Beside it, published: DSFormer {PUBLISHED_DSFORMER} uJ, Decision Transformer "
        f"{PUBLISHED_DT} uJ (Huang et al. 2025; by which rule and sizes is not known here).",
        f"DSFormer's layers of neurons fire at {min(rates):.3f} to {max(rates):.3f} spikes a "
        "neuron and step; the last table has each.",
        *explanation(folded, columns[2][1]),
        "## DSFormer, norms folded",
        layer_table(folded),
    ]
    return "\n\n".join(parts)


def fresh(args: argparse.Namespace) -> tuple[Any, TorchTrajectoryMiniBatch, str]:
    """DSFormer with random weights whose batch statistics fit the data."""
    data, origin = contexts(args)
    encoder = VectorEncoderFactory([args.width], exclude_last_activation=True)
    algo = DSFormerConfig(encoder_factory=encoder).create()
    algo.create_impl(
        data.dataset_info.observation_signature.shape[0], data.dataset_info.action_size
    )
    network = algo.impl.modules.transformer
    backbone = network.backbone
    backbone.progress.set_step(backbone.progress.ptbn_steps)  # batch statistics alone
    for module in network.modules():
        if isinstance(module, TdBN):
            module.momentum = None  # the mean of all batches
    network.train()
    with torch.no_grad():
        for _ in range(WARM_UP):
            batch = draw(data, args.batch)
            inputs = (batch.observations, batch.actions, batch.returns_to_go, batch.timesteps)
            network(*inputs, 1 - batch.masks)
    text = (
        f"DSFormer with random weights (its published start), D {args.width}, K {CONTEXT}, "
        f"T {STEPS}, {LAYERS} layers, {HEADS} head, window 8, PSSA, PTBN with the batch statistics "
        f"of {WARM_UP} batches; {origin}, {args.batch} contexts. A trained network fires at other "
        "rates: --model counts one."
    )
    return algo, draw(data, args.batch), text


def load(args: argparse.Namespace) -> tuple[Any, TorchTrajectoryMiniBatch, str]:
    """A trained network and contexts for it."""
    algo: Any = d3rlpy.load_learnable(str(args.model), device="cpu:0")
    if not isinstance(algo.config, DSFormerConfig):
        raise SystemExit(
            f"--model must be a DSFormer, got {type(algo).__name__}; d3rlpy_spiking.operations "
            "counts the others"
        )
    data, origin = contexts(args, algo.impl.observation_shape, algo.action_size)
    shapes = (
        tuple(data.dataset_info.observation_signature.shape[0]),
        data.dataset_info.action_size,
    )
    needed = (tuple(algo.impl.observation_shape), algo.action_size)
    if shapes != needed:
        raise SystemExit(
            f"--data has observations and actions {shapes}, the model takes {needed}; name the "
            "data it was trained on"
        )
    return (
        algo,
        draw(data, args.batch, algo),
        f"{args.model.name}; {origin}, {args.batch} contexts.",
    )


def contexts(
    args: argparse.Namespace, shape: Any = (OBSERVATION,), actions: int = ACTION
) -> tuple[Any, str]:
    """Episodes, and where they are from."""
    if args.data is not None:
        return load_npz(args.data), f"contexts of {args.data.name}"
    rng = np.random.default_rng(args.seed)
    episodes = []
    for _ in range(20):
        size = 5 * CONTEXT
        episodes.append(
            d3rlpy.dataset.Episode(
                rng.normal(size=(size, *shape)).astype(np.float32),
                np.tanh(rng.normal(size=(size, actions))).astype(np.float32),
                rng.normal(size=(size, 1)).astype(np.float32),
                True,
            )
        )
    buffer = make_buffer(episodes, d3rlpy.constants.ActionSpace.CONTINUOUS, actions)
    return buffer, "contexts of normal numbers"


def draw(data: Any, size: int, algo: Any = None) -> TorchTrajectoryMiniBatch:
    """Contexts of a length, scaled as a trained algorithm scales them, else to deviations of 1."""
    length = CONTEXT if algo is None else algo.config.context_size
    batch = data.sample_trajectory_batch(size, length)
    if algo is not None:
        return TorchTrajectoryMiniBatch.from_batch(
            batch, "cpu:0", algo.observation_scaler, algo.action_scaler, algo.reward_scaler
        )
    found = TorchTrajectoryMiniBatch.from_batch(batch, "cpu:0")
    observations = np.concatenate([episode.observations for episode in data.episodes])
    mean, std = observations.mean(axis=0), observations.std(axis=0) + 1e-3
    assert isinstance(found.observations, torch.Tensor)
    scaled = (found.observations - torch.from_numpy(mean)) / torch.from_numpy(std)
    scale = max(float(np.abs(episode.rewards.sum())) for episode in data.episodes)
    return dataclasses.replace(
        found, observations=scaled, returns_to_go=found.returns_to_go / scale
    )


def dense_transformer(width: int, batch: TorchTrajectoryMiniBatch) -> OperationCount:
    """Counts of d3rlpy's Decision Transformer of that width, with random weights."""
    config = d3rlpy.algos.DecisionTransformerConfig(
        encoder_factory=VectorEncoderFactory([width], exclude_last_activation=True),
        context_size=batch.actions.shape[1],
        num_layers=LAYERS,
        num_heads=HEADS,
        max_timestep=int(batch.timesteps.max()) + 1,
    )
    algo = config.create()
    assert isinstance(batch.observations, torch.Tensor)
    algo.create_impl(tuple(batch.observations.shape[2:]), batch.actions.shape[2])
    return count_operations(algo, batch)


def summary(columns: list[tuple[str, OperationCount]]) -> str:
    """Operations in millions and energy in uJ of each network."""
    measures: dict[str, Callable[[OperationCount], float]] = {
        "accumulates, M": lambda count: count.accumulates / 1e6,
        "multiply-accumulates, M": lambda count: count.multiply_accumulates / 1e6,
        "energy, uJ": lambda count: count.energy_nj / 1e3,
        "dense, M": lambda count: count.dense / 1e6,
        "all dense products as multiply-accumulates, uJ": lambda count: count.dense * MAC / 1e6,
    }
    rows = [
        (name, *(number(measure(count), 2) for _, count in columns))
        for name, measure in measures.items()
    ]
    return table(("a decision", *(name for name, _ in columns)), rows)
