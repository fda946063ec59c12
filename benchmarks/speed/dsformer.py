"""DSFormer: training step, one-token inference, and PSSA's time over the context."""

import dataclasses
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from d3rlpy.dataset import TrajectoryMiniBatch
from torch import nn

from benchmarks.speed import choices
from benchmarks.speed.actor import ACTIONS, OBS
from benchmarks.speed.choices import Choice
from benchmarks.speed.dsformer_inference import inference
from benchmarks.speed.dsformer_models import DENSE, PLAIN, SMALL, Size, dense, ours
from benchmarks.speed.dsformer_plain import PlainDSFormer
from benchmarks.speed.floor import fill, new_section
from benchmarks.speed.harness import Call, Options, Times, race
from benchmarks.speed.matmuls import floors
from benchmarks.speed.table import Goal, Section
from d3rlpy_spiking import DSFormerConfig
from policies.attention import PositionalAttention
from policies.transformer import DSFORMER_LIF

GOALS = {"float32": Goal(1.15), "bf16": Goal(3.5), None: Goal(1.15)}
COMPILED_PSSA, PLAIN_PSSA = "ours, compiled", "ours, plain operations"
WARM, REST = "theta > 0 (first tenth of training)", "theta = 0 (the rest)"


def minibatch(size: Size) -> TrajectoryMiniBatch:
    """Random contexts without padding."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal((size.batch, size.context, *shape)).astype(np.float32)

    steps = np.arange(1, size.context + 1, dtype=np.float32)
    return TrajectoryMiniBatch(
        observations=normal(OBS),
        actions=np.tanh(normal(ACTIONS)),
        rewards=normal(1),
        returns_to_go=normal(1),
        terminals=0 * normal(1),
        timesteps=np.tile(steps, (size.batch, 1)),
        masks=np.ones((size.batch, size.context), np.float32),
        length=size.context,
    )


def plain_step(size: Size, batch: TrajectoryMiniBatch) -> Call:
    """One training step of the plain version: AdamW, gradient norm 0.25."""
    torch.manual_seed(0)
    network = PlainDSFormer(
        OBS, ACTIONS, size.width, size.layers, size.context, steps=size.steps
    ).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-4)
    arrays = (batch.observations, batch.actions, batch.returns_to_go, batch.masks)

    def call() -> None:
        obs, action, rtg, mask = (torch.from_numpy(np.asarray(array)) for array in arrays)
        error = (network(obs, action, rtg, mask) - action).square()[mask > 0].mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.25)
        optimizer.step()

    return call


def training(options: Options, size: Size) -> Section:
    """The training step: ours, the plain version's, d3rlpy's dense one."""
    section = Section(
        "DSFormer, training step",
        f"how many times faster than the {PLAIN}",
        notes=[
            f"Batch {size.batch}, context {size.context}, width {size.width}, {size.layers} "
            f"layers, {size.steps} spike steps; algo.update: loss, gradients, clipping, AdamW. The "
            "plain version computes both branches of PTBN all along. The dense one has three "
            "tokens a step.",
        ],
    )
    batch = minibatch(size)
    spiking = list(choices.plain(DSFormerConfig, backward=True))
    for column, done in ((WARM, 0), (REST, 2000)):
        calls: dict[str, Call] = {}
        for choice in spiking:
            algo = ours(size, choice)
            algo.impl.progress.set_step(done)
            calls[choice.label] = lambda algo=algo: algo.update(batch)  # type: ignore[misc]  # bound at once
        calls[PLAIN] = plain_step(size, batch)
        transformer = dense(size)
        calls[DENSE] = lambda algo=transformer: algo.update(batch)  # type: ignore[misc]  # as above
        times = race(calls, slow(options))
        goals = {choice.label: GOALS.get(choice.matmul) for choice in spiking}
        for name, ms in times.items():
            section.add(name, column, ms, None if name == PLAIN else times[PLAIN], goals.get(name))
    return section


def slow(options: Options) -> int:
    """Fewer rounds, for calls of about a second."""
    return max(3, options.repeats // 4) if not options.quick else options.repeats


def pssa(options: Options, size: Size) -> Section:
    """PSSA alone over longer contexts, forward and backward."""
    section = Section(
        "PSSA over the context, forward and backward",
        "time relative to a tenth of the context",
        direction="time",
        notes=[
            f"Batch 4, width {size.width}, {size.steps} spike steps, window 8, a fifth of the "
            "inputs spikes. Compiled, as training runs it, with the neurons behind it; plain, the "
            "module alone."
        ],
    )
    kinds = {PLAIN_PSSA: plain_pssa}
    if find_spec("policies.fused_attention") and find_spec("numba"):
        kinds = {COMPILED_PSSA: compiled_pssa, **kinds}
    lengths = (4, 40) if options.quick else (20, 200, 2000)
    calls = {f"{kind} {n}": make(n, size) for kind, make in kinds.items() for n in lengths}
    times = race(calls, options.repeats)
    for kind in kinds:
        before: Times | None = None
        for length in lengths:
            goal = Goal(11.0, at_least=False) if length == 2000 else None
            found = times[f"{kind} {length}"]
            section.add(kind, f"context {length:,}", found, before, goal)
            before = found
    return section


def spikes(size: Size, length: int) -> torch.Tensor:
    """Random queries, keys and values side by side, [T, 4, L, 3 D]."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.steps, 4, length, 3 * size.width)
    return (torch.rand(shape, generator=generator) < 0.2).float().requires_grad_()


def plain_pssa(length: int, size: Size) -> Call:
    """PSSA in PyTorch's operations, as other devices and evaluation run it."""
    mixer = PositionalAttention(length, 8)
    parts = spikes(size, length).detach().chunk(3, dim=-1)
    inputs = [part.contiguous().requires_grad_() for part in parts]

    def call() -> None:
        for tensor in (*inputs, *mixer.parameters()):
            tensor.grad = None
        mixer(*inputs).sum().backward()

    return call


def compiled_pssa(length: int, size: Size) -> Call:
    """PSSA with its neurons, as training on a CPU runs it."""
    from policies.fused_attention import positional_lif

    mixer, neuron = PositionalAttention(length, 8), DSFORMER_LIF
    qkv = spikes(size, length)

    def call() -> None:
        qkv.grad = mixer.weight.grad = None
        positional_lif(qkv, None, mixer.weight, neuron).spikes.sum().backward()

    return call


def share(options: Options, size: Size) -> Section:
    """The matmuls of a training step alone against the whole of it."""
    section = new_section("Share of the matmul floor, DSFormer's training step")
    section.notes.append("Layers that see spikes only; theta = 0.")
    batch = minibatch(size)
    steps: dict[Choice, Call] = {}
    for choice in choices.plain(DSFormerConfig, backward=True):
        algo = ours(size, choice)
        algo.impl.progress.set_step(2000)
        steps[choice] = lambda algo=algo: algo.update(batch)  # type: ignore[misc]  # bound at once
    floor = floors(size.rows, size.linears())
    fill(
        section,
        f"batch {size.batch}",
        steps,
        floor,
        dataclasses.replace(options, repeats=slow(options)),
    )
    return section


def run(options: Options) -> list[Section]:
    """The tables of this group."""
    size = SMALL if options.quick else Size()
    return [
        training(options, size),
        *inference(options, size),
        pssa(options, size),
        share(options, size),
    ]
