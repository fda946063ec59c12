"""The actor on a CUDA device, at batch sizes from 256 to 65,536."""

import torch

from benchmarks.speed.actor import compare, selection
from benchmarks.speed.harness import Options
from benchmarks.speed.machine import gpu
from benchmarks.speed.table import Section

BATCHES = (256, 1024, 4096, 16_384, 65_536)


def run(options: Options) -> list[Section]:
    """The two tables of this group, or the line that says why there are none."""
    name = gpu()
    if name is None:
        return [Section("GPU", "", notes=["GPU: not run (no CUDA device)"])]
    batches = BATCHES[:1] if options.quick else BATCHES
    sections = []
    for title, backward in (("forward", False), ("forward and backward", True)):
        ours = selection(options, "cuda", backward=backward)
        section = compare(
            f"GPU ({name}), actor, {title}",
            batches,
            ours,
            options,
            backward=backward,
            device="cuda",
        )
        section.cells = [  # the goals are those of a CPU
            type(cell)(cell.row, cell.column, cell.value, cell.ratio, None, cell.text)
            for cell in section.cells
        ]
        sections.append(section)
        torch.cuda.empty_cache()
    return sections
