"""`doctor`: the layers of a spiking network, what is wrong with them, and what helps."""

import importlib
import sys
from pathlib import Path
from typing import Any

from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import ReplayBuffer

from d3rlpy_spiking.cli.arguments import Arguments
from d3rlpy_spiking.cli.data import load_file
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.fields import read_arguments
from d3rlpy_spiking.cli.runs import load_algorithm, read_json
from d3rlpy_spiking.maze import maze_dataset
from d3rlpy_spiking.monitor.examine import activity_of
from d3rlpy_spiking.monitor.look import SETTLED, young_norms
from policies.monitor import Finding, NetworkActivity


def doctor(args: Arguments) -> int:
    """Print a table of layers and findings.

    Returns:
        0 for a sound network, 1 where a fault was found.

    Raises:
        UsageError: if model and dataset do not fit each other, or nothing in it spikes.
        ImportError: if rich is not installed, which draws tables.
    """
    try:
        importlib.import_module("rich.table")
    except ImportError as error:
        raise ImportError("doctor prints tables with rich: pip install rich") from error
    algo = load_algorithm(args.model, args.device)
    dataset = _dataset(args, algo)
    activity, findings = activity_of(algo, dataset, args.samples)
    _print(args.model, algo, activity, findings)
    _note(algo)
    return 1 if findings else 0


def _dataset(args: Arguments, algo: Any) -> ReplayBuffer:
    discrete = algo.get_action_type() == ActionSpace.DISCRETE
    if args.dataset != "maze":
        return load_file(Path(args.dataset), discrete, algo.impl.action_size if discrete else None)
    record = args.model.parent / "run.json"
    content = read_json(record) if record.exists() else {}
    if not isinstance(content, dict) or not content.get("maze"):
        raise UsageError(
            f"there is no run.json beside {args.model} that says which mazes it was trained on; "
            "pass a model in its run's folder, or a file as --dataset"
        )
    options = read_arguments(maze_dataset, content["maze"], f"{record}: maze")
    dataset: ReplayBuffer = maze_dataset(**options).dataset
    return dataset


def _note(algo: Any) -> None:
    """Say where norms are looked at by other statistics than evaluation takes."""
    network = getattr(algo.impl, "network", None)
    if network is None or not young_norms(network.backbone):
        return
    theta = float(algo.impl.progress.theta)
    why = f"batch norms have not seen {SETTLED} batches yet"
    if theta > 0.0 and algo.config.normalization == "ptbn":
        why = f"theta is {theta:.2f}"
    print(
        f"note: {why}, so norms are looked at as they train, by the statistics of this data; "
        "evaluation and a folded copy use others, which are not learned yet"
    )


def _print(model: Path, algo: Any, activity: NetworkActivity, findings: list[Finding]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # In a file or a pipe no line is broken.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    title = Text(f"{type(algo).__name__} in {model}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("layer", overflow="fold")
    for name in ("firing rate", "dead", "saturated", "gradient flow"):
        table.add_column(name, justify="right")
    table.add_column("fault")
    faults: dict[str, str] = {}
    for finding in findings:
        known = faults.get(finding.layer)
        faults[finding.layer] = f"{known}, {finding.fault}" if known else finding.fault
    for name, cells in _rows(activity):
        table.add_row(Text(name), *cells, faults.pop(name, ""))
    for name, fault in faults.items():  # parts without a row of their own: a norm with NaN
        table.add_row(Text(name), "", "", "", "", fault)
    console.print(table)
    if not findings:
        console.print("no fault found")
    for finding in findings:
        console.print(Text(str(finding)), soft_wrap=True)
        if not finding.lasting:
            console.print("  It still learns, so this may pass: look again later.", soft_wrap=True)


def _rows(activity: NetworkActivity) -> list[tuple[str, list[str]]]:
    """Encoders, layers and readouts in the order of data, with their figures."""
    rows = []
    for encoder in activity.encoders:
        rate = "" if encoder.firing_rate is None else f"{encoder.firing_rate:.3f}"
        rows.append((encoder.name, [rate, "", "", f"covers {encoder.coverage:.0%}"]))
    for layer in activity.layers:
        flow = "" if layer.flow is None else f"{layer.flow:.2f}"
        shares = [f"{layer.dead:.0%}", f"{layer.saturated:.0%}"]
        rows.append((layer.name, [f"{layer.firing_rate:.3f}", *shares, flow]))
    rows += [(readout.name, ["", "", "", ""]) for readout in activity.readouts]
    return rows
