"""Adds a trained policy to a folder of shipped ones."""

import dataclasses
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from policies.files import write_atomically
from policies.selftest.band import FEWEST_REPLAYS, JITTER, Band
from policies.selftest.decisions import Played, share_alike
from policies.selftest.manifest import (
    FILE,
    Shipped,
    checksum,
    read_manifest,
    write_manifest,
)

# Plays the episodes of seeds with weights that `jitter` has changed, or with None as they are.
Replay = Callable[[Path, Iterable[int], Callable[[nn.Module], None] | None], Sequence[Played]]


@dataclasses.dataclass(frozen=True)
class Packed:
    """What has been added.

    Attributes:
        path: the file.
        shipped: what the manifest says of it.
        band: mean returns that pass.
    """

    path: Path
    shipped: Shipped
    band: Band

    def __str__(self) -> str:
        """A line for whoever packs."""
        return (
            f"{self.path}: {self.path.stat().st_size:,} bytes, {self.shipped.episodes} episodes, "
            f"mean return {self.band.mean:.5g}, passes from {self.band.low:.5g} to "
            f"{self.band.high:.5g}, {self.shipped.worst_share:.1%} of the first decisions unmoved "
            "by rounding"
        )


def jitter(module: nn.Module, seed: int) -> None:
    """Change every weight at random, relatively by `JITTER`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1.0 + JITTER * noise.to(parameter))


def add_to(
    folder: Path,
    write: Callable[[str], None],
    replay: Replay,
    *,
    episodes: int,
    replays: int,
    **known: Any,
) -> Packed:
    """Write a policy's file, play it, and enter both into the manifest of a folder.

    Nothing is left behind by a failure; an entry of the same name is replaced.

    Args:
        folder: of the manifest; made if missing.
        write: writes the policy's file to a path.
        replay: plays it.
        episodes: to play.
        replays: how often to play them, 3 or more.
        known: the other fields of `Shipped`, but for sha256.

    Raises:
        ValueError: if there are too few replays or episodes, or another policy has that file.
    """
    if replays < FEWEST_REPLAYS or episodes < 1:
        raise ValueError(
            f"needs 1 episode and {FEWEST_REPLAYS} replays or more, got {episodes} and {replays}"
        )
    before = read_manifest(folder) if (folder / FILE).is_file() else []
    for other in before:
        if other.file == known["file"] and other.name != known["name"]:
            raise ValueError(
                f"{other.name} has the file {other.file} already; take that name, or remove it from"
                f" {folder}"
            )
    seeds = range(known["first_seed"], known["first_seed"] + episodes)
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch, Path(known["file"]).name)
        write(str(draft))
        played = [replay(draft, seeds, None)]
        for number in range(1, replays):
            played.append(replay(draft, seeds, lambda m, n=number: jitter(m, n)))  # type: ignore[misc]  # called at once
        openings = tuple(episode.opening for episode in played[0])
        shipped = Shipped(
            sha256=checksum(draft),
            returns=tuple(tuple(episode.total for episode in again) for again in played),
            openings=openings,
            worst_share=min(share_alike(openings, again) for again in played),
            **known,
        )
        target = folder / shipped.file
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(str(target), lambda name: _copy(draft, name))
    write_manifest(folder, [*(s for s in before if s.name != shipped.name), shipped])
    for old in before:
        if old.name == shipped.name and old.file != shipped.file:
            (folder / old.file).unlink(missing_ok=True)
    return Packed(target, shipped, shipped.band())


def _copy(source: Path, name: str) -> None:
    shutil.copyfile(source, name)


def commit_here() -> str:
    """The commit of the working tree in this folder.

    Raises:
        ValueError: if it has none.
    """
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError("there is no commit of git here: pass --commit") from error
    return done.stdout.strip()[:7]
