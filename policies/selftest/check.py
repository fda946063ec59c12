"""Plays shipped policies and compares returns and first decisions with those on record."""

import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from policies.selftest.decisions import Played, share_alike, share_needed
from policies.selftest.manifest import Shipped, read_manifest, whole_file


class SkippedError(Exception):
    """A policy cannot be played here; the message says why and what helps."""


class Play(Protocol):
    """Plays episodes of a policy in a file."""

    def __call__(self, shipped: Shipped, path: Path, seeds: Iterable[int]) -> Sequence[Played]:
        """The episode of each seed.

        Raises:
            SkippedError: if this machine lacks what the environment needs.
        """
        ...


def check_names(names: Sequence[str], folders: Iterable[Path]) -> None:
    """Raise unless all names are of policies in the folders.

    Raises:
        ValueError: naming those that are.
    """
    known = [shipped.name for folder in folders for shipped in read_manifest(folder)]
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no shipped policy {name!r}; there are: {', '.join(known) or 'none'}"
            )


def show_list(folders: Iterable[Path], say: Callable[[str], None] = print) -> None:
    """Print what is shipped, without opening it."""
    for folder in folders:
        for shipped in read_manifest(folder):
            band = shipped.band()
            say(
                f"{shipped.name}: {shipped.algorithm} on {shipped.env}, {shipped.steps:,} steps, "
                f"mean return {band.mean:.4g} over {shipped.episodes} episodes; "
                f"{folder / shipped.file}\n    {shipped.command}"
            )


def selftest(
    folder: Path,
    play: Play,
    names: Sequence[str] = (),
    episodes: int | None = None,
    *,
    show_traceback: bool = False,
) -> bool:
    """Play the policies of a folder, and print a line on each.

    Args:
        folder: with a manifest.
        play: plays one of its files.
        names: of those to play; none for all.
        episodes: of each, at most as many as have returns on record; None for all of these.
        show_traceback: whether to show where in the code an error arose.

    Returns:
        whether none has failed; one that cannot be played here has not.
    """
    chosen = [s for s in read_manifest(folder) if not names or s.name in names]
    # A list, so that none is left out after a failure.
    return all([_one(folder, s, play, episodes, show_traceback) for s in chosen])


def _one(
    folder: Path, shipped: Shipped, play: Play, episodes: int | None, show_traceback: bool
) -> bool:
    band, seeds = shipped.band(episodes), shipped.seeds(episodes)
    head = f"{shipped.name:<20} {shipped.env:<16}"
    start = time.perf_counter()
    try:
        played = play(shipped, whole_file(folder, shipped), seeds)
    except SkippedError as why:
        print(f"{head} skipped: {' '.join(str(why).split())}", flush=True)
        return True
    except Exception as error:  # a broken installation may fail on anything
        if show_traceback:
            traceback.print_exc(file=sys.stderr)
        what = " ".join(str(error).split())
        print(f"{head} FAILED: {type(error).__name__}: {what}", flush=True)
        return False
    mean = math.fsum(episode.total for episode in played) / len(played)
    share = share_alike(shipped.openings, played)
    faults = []
    if not band.holds(mean):
        faults.append("the return is outside")
    if share < share_needed(shipped.worst_share):
        faults.append(f"only {share:.0%} of the first decisions are as recorded")
    print(
        f"{head} expected {band.mean:9.4g} ({band.low:.4g} to {band.high:.4g})  got {mean:9.4g}  "
        f"{len(played):3} episodes {time.perf_counter() - start:6.1f} s  "
        + (f"FAILED: {' and '.join(faults)}" if faults else "ok"),
        flush=True,
    )
    return not faults
