"""What to type today to train the runs of each kind again.

The commands that runs were started with are no help: the hyperparameter file behind them has
changed since. They are kept beside each run's evaluations.
"""

from argparse import Namespace
from collections.abc import Sequence

from benchmarks.online_learning import KINDS, Run, parse
from benchmarks.results.command import join, template
from benchmarks.results.record import Record

_TEXT = """\
Commands of today, a kind each, for all of its environments and seeds, and another for runs that \
went on; below them what they start for an ENV and a SEED (`-n` is how far a run may go on, it is \
stopped at its budget). What each run was started with is kept beside its evaluations."""


def commands(
    records: Sequence[Record], budgets: Sequence[int], variant_budget: int, name: str
) -> str:
    """Commands of each kind.

    Args:
        records: the runs.
        budgets: of the tables, in steps.
        variant_budget: one more that variants may have been made for.
        name: "plain" for runs of `--plain`.
    """
    lines = []
    for kind in sorted({one.kind for one in records}, key=_place):
        runs = [one for one in records if one.kind == kind]
        asked = budgets if kind in ("dense", "spiking") else [*budgets, variant_budget]
        known = kind in KINDS
        lines += [
            f"# {kind}",
            *(_today(runs, asked, min(budgets), name) if known else _noted(runs)),
        ]
    return f"{_TEXT}\n\n```bash\n" + "\n".join(lines) + "\n```"


def _place(kind: str) -> tuple[bool, bool, str]:
    """Dense, spiking, then variants."""
    return kind != "dense", kind != "spiking", kind


def _today(runs: Sequence[Record], budgets: Sequence[int], first: int, name: str) -> list[str]:
    """A command for the budgets up to the first, and one for the runs that went on to each other.

    Args:
        runs: of one kind.
        budgets: that they may have been made for, in steps.
        first: what all runs are made for.
        name: "plain" for runs of `--plain`.
    """
    kind, env, seed = runs[0].kind, runs[0].env, runs[0].seed
    given = ["--plain"] if name == "plain" else []
    defaults = parse(given)

    def line(some: Sequence[Record], steps: int) -> str:
        return join(
            [
                *("python", "-m", "benchmarks.online_learning", *given, "--kinds", kind, "--envs"),
                *sorted({one.env for one in some}),
                *("--seeds", *(str(one) for one in sorted({one.seed for one in some}))),
                *(["--steps", str(steps)] if steps != defaults.steps else []),
            ]
        )

    lines = [line(runs, _steps(runs, [one for one in budgets if one <= first]))]
    for budget in sorted(one for one in budgets if one > first):
        further = [one for one in runs if one.steps[-1] >= budget]
        if further:
            lines.append(line(further, budget))
    return [*lines, f"# {_started(Run(env, kind, seed), defaults)}"]


def _started(run: Run, args: Namespace) -> str:
    return template(join(["python", *run.command(args)]), run.env, run.seed)


def _steps(runs: Sequence[Record], budgets: Sequence[int]) -> int:
    """The largest budget that one of the runs reached, or else the smallest there is."""
    furthest = max(int(one.steps[-1]) for one in runs)
    return max((steps for steps in budgets if steps <= furthest), default=min(budgets))


def _noted(runs: Sequence[Record]) -> list[str]:
    """Of a kind that the benchmark does not know: what its runs were started with, once each."""
    found = {
        template(start.command, one.env, one.seed): None for one in runs for start in one.starts
    }
    return ["# no kind of benchmarks.online_learning; as its runs were started", *found]
