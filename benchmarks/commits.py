"""Which code made a result."""

import functools
import subprocess
from collections.abc import Mapping
from typing import Any


def current_commit() -> str:
    """The commit that is checked out, with "-dirty" where files differ; "unknown" without git."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


@functools.cache
def own_commit() -> str:
    """The commit whose code this process runs: the one of the first call, so call it early.

    What is committed or checked out later is not what was imported.
    """
    return current_commit()


def commits_of(result: Mapping[str, Any]) -> list[str]:
    """The commits that a result was made at; older files name one."""
    return list(result["commits"]) if "commits" in result else [result["commit"]]
