"""The very matmuls that a training step needs, timed alone, against the whole step."""

from collections.abc import Mapping

import torch

from benchmarks.speed import choices
from benchmarks.speed.actor import LAYERS, OBS, make_ours, training
from benchmarks.speed.choices import Choice
from benchmarks.speed.harness import Call, Options, race
from benchmarks.speed.matmuls import EXACT, floors
from benchmarks.speed.table import Goal, Section

GOALS = {"float32": Goal(0.7), "bf16": Goal(0.5)}


def matching(choice: Choice) -> str:
    """The name of a choice's floor; empty where none has its arithmetic."""
    if choice.matmul == "exact":
        return EXACT if choice.backward in ("bf16", None) else ""
    return choice.matmul or "float32"


def fill(
    section: Section,
    column: str,
    steps: Mapping[Choice, Call],
    floor: Mapping[str, Call],
    options: Options,
) -> None:
    """Time steps and floors together and put in each step's share."""
    alone = {name: f"matmuls alone, {name}" for name in floor}
    calls = {choice.label: call for choice, call in steps.items()}
    times = race(calls | {alone[name]: call for name, call in floor.items()}, options.repeats)
    for choice in steps:
        name = matching(choice)
        if name in floor:
            section.add(
                choice.label, column, times[choice.label], times[alone[name]], GOALS.get(name)
            )
    for row in alone.values():
        section.add(row, column, times[row])


def new_section(title: str) -> Section:
    """An empty table of shares."""
    return Section(
        title,
        "share of the step that its matmuls alone would take",
        notes=[
            "Matmuls alone: of every linear layer the forward one and those of both gradients, "
            "without bias, results thrown away. Exact: three int8 parts forward, bf16 backward."
        ],
    )


def run(options: Options) -> list[Section]:
    """The table of this group."""
    section = new_section("Share of the matmul floor, actor's forward and backward")
    for batch in (8,) if options.quick else (100, 256):
        obs = torch.randn(batch, OBS, generator=torch.Generator().manual_seed(1))
        steps = {c: training(make_ours(c), obs) for c in choices.plain(backward=True)}
        rows = batch * make_ours(Choice()).config.spike_steps
        fill(section, f"batch {batch}", steps, floors(rows, LAYERS), options)
    return [section]
