"""Command lines without the paths of a machine."""

import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folders of an absolute path, at a word's beginning or inside it: policy_kwargs:dict(file='/a/b').
_FOLDERS = re.compile(r"(?:^|(?<=['\"=:]))/(?:[^/'\"\s]+/)*")
# What a shell reads between double quotes.
_LIVE = re.compile(r"[\"$`\\!]")


def join(words: Sequence[str]) -> str:
    """As shlex.join, but "policy:'MlpPolicy'" where double quotes read better."""
    return " ".join(
        f'"{word}"' if "'" in word and not _LIVE.search(word) else shlex.quote(word)
        for word in words
    )


def relative(text: str) -> str:
    """A word or setting: paths in the repository from there, of others only the name is left."""
    return _FOLDERS.sub("", text.replace(f"{ROOT}/", ""))


def portable(words: Sequence[str], folder: str) -> str:
    """A command line for anyone's checkout.

    Args:
        words: the command.
        folder: takes the place of the one that it logs to (`-f`).

    Returns:
        The command; paths in the repository are relative to it, of others only the name is left.
    """
    line = list(words)
    for place, word in enumerate(line[:-1]):
        if word in ("-f", "--log-folder"):
            line[place + 1] = folder
    return join([relative(word) for word in line])


def template(command: str, env: str, seed: int) -> str:
    """A command with ENV and SEED in place of a run's own."""
    words = shlex.split(command)
    for place, pair in enumerate(itertools.pairwise(words), start=1):
        if pair == ("--env", env):
            words[place] = "ENV"
        elif pair == ("--seed", str(seed)):
            words[place] = "SEED"
    name = f"/{env}_seed{seed}"
    return join(
        [
            word.removesuffix(name) + "/ENV_seedSEED" if word.endswith(name) else word
            for word in words
        ]
    )
