"""What is kept of a run: a few kB of JSON, the same bytes for the same run."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.files import write_atomically

COLUMNS = ("step", "mean", "sd", "min", "max")
# "step" is whole; returns are kept to a hundredth.
_DIGITS = 2


@dataclass(frozen=True)
class Start:
    """One start of a run, the first or one that went on.

    Attributes:
        step: its last evaluation before, 0 at first.
        commit: the repository's commit.
        command: the command line, without the paths of a machine.
    """

    step: int
    commit: str
    command: str


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        env: environment.
        kind: "spiking", "dense" or a variant's name.
        seed: seed.
        algo: algorithm, as RL Zoo names it.
        episodes: episodes of an evaluation.
        starts: at least one.
        table: [N, 5], N at least 1, `COLUMNS` over the episodes of each evaluation; the standard
            deviation is that of the episodes themselves (ddof 0), as Stable-Baselines3 prints it.
        hyperparameters: those that RL Zoo saved; None: not known, as of runs that were kept before
            these were.
    """

    env: str
    kind: str
    seed: int
    algo: str
    episodes: int
    starts: tuple[Start, ...]
    table: NDArray[np.float64]
    hyperparameters: dict[str, Any] | None = None

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps before each evaluation, rising [N]."""
        return self.table[:, 0].astype(np.int64)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean return of each evaluation [N]."""
        return self.table[:, 1]

    @property
    def name(self) -> str:
        """Kind, environment and seed, as its folder is called."""
        return f"{self.kind}/{self.env}_seed{self.seed}"

    def until(self, budget: int) -> "Record":
        """The run up to a budget of steps.

        Raises:
            ValueError: if it has no evaluation there.
        """
        within = self.steps <= budget
        if not within.any():
            raise ValueError(
                f"--steps must be at least {self.steps[0]:,}, the first evaluation of {self.name}, "
                f"got {budget:,}"
            )
        return replace(self, table=self.table[within])

    def path(self, data: Path) -> Path:
        """Where it is kept."""
        return data / f"{self.name}.json"

    def save(self, data: Path) -> Path:
        """Keep it, with an evaluation a line; the file is whole or as it was."""
        path = self.path(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(str(path), lambda name: _write(name, self._json()))
        return path

    def _json(self) -> str:
        head = {
            **{"env": self.env, "kind": self.kind, "seed": self.seed, "algo": self.algo},
            "episodes": self.episodes,
            **({} if self.hyperparameters is None else {"hyperparameters": self.hyperparameters}),
            "starts": [vars(start) for start in self.starts],
            "columns": list(COLUMNS),
        }
        lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
        rows = ",\n".join(f"  {json.dumps(_row(row))}" for row in self.table.tolist())
        return "\n".join(["{", *lines, ' "evaluations": [', rows, " ]", "}", ""])


def _row(row: list[float]) -> list[float]:
    # Adding 0.0 turns -0.0 into 0.0.
    return [int(row[0]), *(round(value, _DIGITS) + 0.0 for value in row[1:])]


def _write(name: str, text: str) -> None:
    Path(name).write_text(text, "utf-8", newline="\n")


def read(path: Path) -> Record:
    """Read what `Record.save` wrote.

    Raises:
        ValueError: if the file is not such a one.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if data["columns"] != list(COLUMNS):
            raise ValueError(f"columns {data['columns']}")
        starts = tuple(Start(**start) for start in data["starts"])
        table = np.array(data["evaluations"], dtype=np.float64).reshape(-1, len(COLUMNS))
        if not (len(table) and len(starts)):
            raise ValueError("no evaluation, or no start")
        hyperparameters = data.get("hyperparameters")
        if not isinstance(hyperparameters, dict | None):
            raise TypeError(f"hyperparameters {hyperparameters!r}")
        named = {name: data[name] for name in ("env", "kind", "seed", "algo", "episodes")}
        return Record(starts=starts, table=table, hyperparameters=hyperparameters, **named)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is none of `benchmarks.results collect` ({error}); collect the run again"
        ) from error


def read_all(data: Path) -> list[Record]:
    """All runs that are kept, by environment, kind and seed.

    Raises:
        ValueError: if there are none, or a file is damaged.
    """
    records = [read(path) for path in data.glob("*/*.json")]
    if not records:
        raise ValueError(
            f"there are no runs in {data}; keep some with `python -m benchmarks.results collect`"
        )
    return sorted(records, key=lambda record: (record.env, record.kind, record.seed))
