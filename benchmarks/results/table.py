"""Tables of the online runs."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.results.markdown import NOTHING, between, part, rows, whole
from benchmarks.results.published import DENSE, METHODS, RETURNS
from benchmarks.results.record import Record
from benchmarks.results.reproduce import commands
from benchmarks.results.summary import (
    Estimate,
    Group,
    Measure,
    Outcome,
    average,
    group,
    ratio,
    t_interval,
)

# What the runs are made for, then how far some go on.
BUDGETS = (300_000, 1_000_000)
# What the options are compared at, one at a time.
VARIANT_BUDGET = 100_000
_PAIR = ("dense", "spiking")

_READING = """\
Returns without discount, {algos}, deterministic actions. *Last*: mean of the last three \
evaluations at or before the steps of the table, {episodes} episodes each, fixed before the runs. \
*Best*: the best evaluation up to there, which flatters what scatters. A run that has not come so \
far is in no mean and is marked.

Each seed is listed, because {seeds} are few. The bootstrap interval of a mean over {seeds} seeds \
is just their range: made for 95 %, it holds the mean of normal numbers in {mean} of 100 cases. \
*t* is Student's interval, which holds it in 95 if returns of seeds are normal. Ratios are \
resampled within each environment and policy, with one draw fewer than seeds (which widens them by \
as much as few seeds narrow them): with {seeds} seeds each they hold in {ratio} of 100 cases, the \
mean of four ratios in {overall} (`python -m benchmarks.results coverage --seeds {number}`). \
Environments are taken as given: no interval speaks of others."""

# Of 100, by the number of seeds; what `coverage` prints.
COVERAGE = {
    2: {"mean": 50, "ratio": 67, "overall": 86},
    3: {"mean": 75, "ratio": 87, "overall": 92},
}
_NUMBERS = {2: "two", 3: "three"}

_PUBLISHED = f"""\
Published values are not ours and were not repeated: best evaluation of 1,000,000 steps, mean of \
five seeds, from the comparison in the paper on CaRe-BN (ICLR 2026) as a third party noted it. \
Their ratios are to the published {DENSE}, worked out here from the means in the table."""


def tables(
    records: Sequence[Record],
    budgets: Sequence[int],
    variant_budget: int = VARIANT_BUDGET,
    name: str = "online",
) -> str:
    """All tables, for each budget.

    A later budget has the runs that went beyond the one before, in environments where one reached
    it: those that were never meant to are no gaps there. Variants have a budget of their own, at
    which dense and spiking of their environments stand beside them.

    Args:
        records: the runs.
        budgets: in steps.
        variant_budget: of the variants, in steps.
        name: of the runs, "plain" for those of `--plain`.

    Raises:
        ValueError: if a run has no evaluation within the first budget, or runs of one environment
            and kind have different hyperparameters.
    """
    episodes = ", ".join(str(count) for count in sorted({one.episodes for one in records}))
    algos = ", ".join(sorted({one.algo.upper() for one in records}))
    pair = [one for one in records if one.kind in _PAIR]
    varied = {one.env for one in records if one.kind not in _PAIR}
    first, *later = sorted(set(budgets))
    parts = [_READING.format(algos=algos, episodes=episodes, **_held(pair or records))]
    if pair:
        parts.append(_budget(group(pair, first), first))
    for before, budget in itertools.pairwise([first, *later]):
        reached = {one.env for one in pair if one.steps[-1] >= budget}
        kept = [one for one in pair if one.env in reached and one.steps[-1] > before]
        if kept:
            parts.append(_budget(group(kept, budget), budget))
    if varied:
        beside = [one for one in records if one.env in varied]
        parts.append(_variants(group(beside, variant_budget), variant_budget))
    if any(one.env in RETURNS for one in pair):
        parts.append(_PUBLISHED)
    return "\n\n".join([*parts, commands(records, budgets, variant_budget, name)])


def _held(records: Sequence[Record]) -> dict[str, Any]:
    """What to say of the intervals of so many seeds: of those that most groups have."""
    counts = Counter((one.env, one.kind) for one in records)
    usual = Counter(counts.values()).most_common(1)[0][0]
    number = min(max(usual, min(COVERAGE)), max(COVERAGE))
    return {**COVERAGE[number], "number": number, "seeds": _NUMBERS[number]}


def _budget(groups: Sequence[Group], budget: int) -> str:
    return _sections(
        f"### {budget:,} steps",
        _last(groups, budget),
        _unfinished(groups, budget),
        _best(groups),
        _runs(groups, budget),
    )


def _variants(groups: Sequence[Group], budget: int) -> str:
    return _sections(
        f"### Options, {budget:,} steps",
        _last(groups, budget),
        _unfinished(groups, budget),
        _runs(groups, budget),
    )


def _sections(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)


def _ratios(groups: Sequence[Group], measure: Measure) -> dict[tuple[str, str], Estimate]:
    """Every kind over dense, by environment and kind."""
    dense = {one.env: one for one in groups if one.kind == "dense"}
    found = {}
    for one in groups:
        if one.kind != "dense" and one.env in dense:
            estimate = ratio(one, dense[one.env], measure)
            if estimate is not None:
                found[one.env, one.kind] = estimate
    return found


def _last(groups: Sequence[Group], budget: int) -> str:
    ratios = _ratios(groups, "last")
    body = []
    for one in groups:
        values, mean = one.values("last"), one.mean("last")
        above = ratios.get((one.env, one.kind))
        body.append(
            [
                *(one.env, one.kind, _seeds(one), f"{budget:,}"),
                *(whole(mean and mean.value), between(mean and mean.interval)),
                between(t_interval(values)),
                ", ".join(whole(value) for value in values) or NOTHING,
                *(part(above and above.value), between(above and above.interval, ratio=True)),
            ]
        )
    for kind in sorted({kind for _, kind in ratios}, key=lambda name: (name != "spiking", name)):
        of_kind = [value for (_, name), value in ratios.items() if name == kind]
        if len(of_kind) > 1:
            mean = average(of_kind)
            ends = between(mean.interval, ratio=True)
            label = f"**mean of {len(of_kind)} environments**"
            body.append([label, f"**{kind}**", *[""] * 6, f"**{part(mean.value)}**", ends])
    head = [
        *("environment", "policy", "seeds", "steps", "last, mean", "95 % bootstrap", "95 % t"),
        *("last, each seed", "/ dense", "95 % bootstrap"),
    ]
    return rows(head, body)


def _seeds(one: Group) -> str:
    done = ", ".join(str(run.record.seed) for run in one.done) or "none"
    missing = len(one.outcomes) - len(one.done)
    return f"{done} ({missing} unfinished)" if missing else done


def _unfinished(groups: Sequence[Group], budget: int) -> str:
    """Runs that have not reached the budget, with what they have."""
    found = [run for one in groups for run in one.outcomes if not run.complete]
    if not found:
        return ""
    body = [[*_names(run), f"**{run.steps:,}**", whole(run.last), whole(run.best)] for run in found]
    return f"Not at {budget:,} steps, so in no mean; returns are those at the steps given.\n\n" + (
        rows(["environment", "policy", "seed", "steps", "last", "best"], body)
    )


def _names(run: Outcome) -> tuple[str, str, str]:
    return run.record.env, run.record.kind, str(run.record.seed)


def _best(groups: Sequence[Group]) -> str:
    """Best evaluations of dense and spiking, with published ones beside them."""
    ours = {(one.env, one.kind): one.mean("best") for one in groups}
    ratios = {env: one for (env, kind), one in _ratios(groups, "best").items() if kind == "spiking"}
    body = []
    for env in sorted({one.env for one in groups}):
        mean, above = [ours.get((env, kind)) for kind in ("dense", "spiking")], ratios.get(env)
        body.append(
            [
                env,
                *(whole(one and one.value) for one in mean),
                *(part(above and above.value), between(above and above.interval, ratio=True)),
                *(whole(value) for value in RETURNS.get(env, [None] * len(METHODS))),
            ]
        )
    # Ours and theirs over the same environments.
    common = sorted(ratios.keys() & RETURNS.keys())
    if len(common) > 1:
        mean_ratio = average([ratios[env] for env in common])
        theirs = [
            part(sum(RETURNS[env][place] / RETURNS[env][0] for env in common) / len(common))
            for place in range(len(METHODS))
        ]
        ends = between(mean_ratio.interval, ratio=True)
        label = f"mean ratio to dense of {len(common)} environments"
        body.append([label, "1.000", "", part(mean_ratio.value), ends, *theirs])
    head = [
        *("environment", "dense, best", "spiking, best", "/ dense", "95 % bootstrap"),
        *(f"{method}, published (1M steps)" for method in METHODS),
    ]
    return rows(head, body)


def _runs(groups: Sequence[Group], budget: int) -> str:
    """A line a run, folded."""
    body = []
    for one in groups:
        for run in one.outcomes:
            steps = f"{run.steps:,}" + ("" if run.complete else " (unfinished)")
            line = [*_names(run), steps, whole(run.last), whole(run.best)]
            body.append([*line, _commits(run.record, budget)])
    head = ["environment", "policy", "seed", "steps", "last", "best", "commit"]
    return (
        f"<details><summary>Each run, {budget:,} steps</summary>\n\n{rows(head, body)}\n\n"
        "</details>"
    )


def _commits(record: Record, budget: int) -> str:
    """Commits of the starts up to the budget: `abc`, `def` from 120,000."""
    shown: list[str] = []
    last = ""
    for start in record.starts:
        if start.step >= budget or start.commit == last:
            continue
        last = start.commit
        shown.append(f"`{last}`" + (f" from {start.step:,}" if start.step else ""))
    return ", ".join(shown) or NOTHING
