"""The groups in a row, and the Markdown of all that they measured."""

from collections.abc import Sequence
from importlib import import_module

import torch

from benchmarks.speed import machine
from benchmarks.speed.harness import Options
from benchmarks.speed.table import Section, goals_markdown

# Extras by the packages that a group imports at its start.
EXTRAS = {"stable_baselines3": "sb3", "sb3_contrib": "sb3", "d3rlpy": "d3rlpy"}


def group(name: str, options: Options) -> list[Section]:
    """A group's sections; one that says why, where a library is not installed."""
    try:
        return list(import_module(f"benchmarks.speed.{name}").run(options))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name))
        if extra is None:
            raise
        why = f"not run: {error.name} is not installed (pip install spiking-policies[{extra}])"
        return [Section(name, "", notes=[why])]


def head(command: str, options: Options) -> str:
    """What was run, where."""
    lines = [
        f"- Command: `{command}`",
        f"- Processor: {machine.processor()}; {torch.get_num_threads()} thread(s) each side",
        f"- GPU: {machine.gpu() or 'none'}",
        f"- Versions: {machine.versions()}",
        f"- {options.repeats} rounds in which all rivals take turns; medians of the times and of "
        "the rounds' ratios. Compare ratios, not times.",
    ]
    if options.kept:
        lines.append(
            "- Freed memory stays with the process, for all rivals (`--malloc system`: as glibc "
            "has it, slower and less steady)."
        )
    if options.quick:
        lines.append("- Quick: sizes are tiny and the figures mean nothing.")
    return "\n".join(lines)


def measure(groups: Sequence[str], threads: int, command: str, options: Options) -> str:
    """Run groups, print each table when it is there, and return the whole as Markdown."""
    torch.set_num_threads(threads)
    parts = [head(command, options)]
    print(parts[0], flush=True)
    sections: list[Section] = []
    for name in groups:
        found = group(name, options)
        sections += found
        for section in found:
            print(f"\n{section.markdown()}", flush=True)
    goals = goals_markdown(sections)
    if goals:
        parts.append(goals)
        print(f"\n{goals}", flush=True)
    parts += [section.markdown() for section in sections]
    return "\n\n".join(parts)
