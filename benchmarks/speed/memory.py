"""Peak memory of one actor's training step, and the time of imports, in processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.speed import choices
from benchmarks.speed.actor import DENSE, LOOP
from benchmarks.speed.choices import Choice
from benchmarks.speed.harness import Options
from benchmarks.speed.peers import PEERS, missing
from benchmarks.speed.table import Section

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = (("stable_baselines3", "sb3_spiking"), ("d3rlpy", "d3rlpy_spiking"))
CLEAR = Path("/proc/self/clear_refs")


def child(arguments: list[str]) -> str:
    """Output of a fresh Python with one thread."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        # Freed blocks go back to the system at once, so that resident memory follows use.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} failed:\n{done.stderr}")
    return done.stdout


def peak(row: str, choice: Choice | None, batch: int) -> float:
    """Peak resident memory that a training step adds, MB."""
    parts = ["", "", ""] if choice is None else [choice.matmul, choice.backward, choice.kernel]
    given = [part or "" for part in parts]
    return float(child(["-m", "benchmarks.speed.memory_child", row, str(batch), *given]))


def memory(options: Options) -> Section:
    """Memory of every network's training step."""
    batch = 32 if options.quick else 1024
    column = f"batch {batch}"
    section = Section(
        "Memory that forward and backward of the actor add at their peak",
        f"relative to the {LOOP}",
        unit="MB",
        direction="time",
        notes=["Resident memory of a process of its own, above what it held before the step."],
    )
    if not os.access(CLEAR, os.W_OK):
        section.notes.append("Not run: only Linux tells a process its peak.")
        return section
    loop = peak(LOOP, None, batch)
    for choice in list(choices.plain(backward=True))[: 1 if options.quick else None]:
        section.add(choice.label, column, peak("ours", choice, batch), loop)
    section.add(LOOP, column, loop)
    for name in () if options.quick else PEERS:
        if why := missing(name):
            section.skip(name, column, why)
        else:
            section.add(name, column, peak(name, None, batch), loop)
    if not options.quick:
        section.add(DENSE, column, peak(DENSE, None, batch), loop)
    return section


def import_times(options: Options) -> Section:
    """Wall time of a Python that imports a library; processes take turns."""
    section = Section(
        "Import", "time relative to the library that is extended", unit="s", direction="time"
    )
    pairs = IMPORTS[:1] if options.quick else IMPORTS
    names = [name for pair in pairs for name in pair]
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(1 if options.quick else 1 + max(3, options.repeats // 3)):
        for name in names:
            start = time.perf_counter()
            child(["-c", f"import {name}"])
            if round_ or options.quick:  # the first round reads files from disk
                times[name].append(time.perf_counter() - start)
    for theirs, ours in pairs:
        section.add(f"import {theirs}", "whole process", times[theirs])
        section.add(f"import {ours}", "whole process", times[ours], times[theirs])
    return section


def run(options: Options) -> list[Section]:
    """The two tables of this group."""
    return [memory(options), import_times(options)]
