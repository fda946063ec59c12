r"""A corridor with a cue at its start and a junction at its end: a task for long contexts.

    python -m benchmarks.offline_corridor --length 90 --out runs/offline/corridor_90.npz
    python -m benchmarks.offline_runs --datasets runs/offline/corridor_90.npz --networks memory \
        --contexts 20 100 --batch 16 --steps 1600 --out runs/offline

The cue, +1 or -1, is seen for the first CUE steps. An agent at full speed walks `length` steps, in
which observations and the data's actions are the same whatever the cue was; at the junction it has
to turn to the cue's side. A network whose context does not reach back to the cue can be no better
than chance, a success in one of two. It shows memory and nothing else: no stitching, no planning.

Source: the T-maze of Bakker 2001, "Reinforcement Learning with Long Short-Term Memory".
"""

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from policies.files import write_atomically

CUE, TURN = 4, 3  # steps that the cue is seen for; steps to either side of the junction
LENGTHS = (20, 90, 190)
_NOISE = 0.05  # sd of the data's actions around the best ones


class Corridor(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The corridor.

    Observation [4]: cue or 0, part of the way, steps to the side, whether at the junction.
    Action [2]: forward in [0, 1] (below 0: stands still), to the side in [-1, 1] (at the junction).
    Reward: 1 for the right end, at the end. End: TURN steps to one side, or 20 steps of waste.

    Args:
        length: steps from start to junction.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._cue, self._x, self._y, self._steps = 0.0, 0.0, 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a cue; info has it."""
        super().reset(seed=seed)
        self._cue = float(self.np_random.choice([-1.0, 1.0]))
        self._x, self._y, self._steps = 0.0, 0.0, 0
        return self._observe(), {"cue": self._cue}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Walk, or turn."""
        forward, side = np.clip(action, -1.0, 1.0).tolist()
        if self._x < self.length:
            self._x += max(forward, 0.0)
        else:
            self._y += side
        self._steps += 1
        ended = abs(self._y) >= TURN - 0.5
        reward = float(ended and self._y * self._cue > 0)
        late = not ended and self._steps >= self.length + TURN + 20
        return self._observe(), reward, ended, late, {}

    def _observe(self) -> NDArray[np.float32]:
        cue = self._cue if self._steps < CUE else 0.0
        junction = float(self._x >= self.length)
        return np.array([cue, self._x / self.length, self._y / TURN, junction], np.float32)


# Not __name__, which is "__main__" in the process that writes a dataset.
_MODULE = "benchmarks.offline_corridor"


def env_id(length: int) -> str:
    """Name of a corridor; gymnasium.make imports the module before the colon, in any process."""
    return f"{_MODULE}:Corridor{length}-v0"


for _length in LENGTHS:
    _name = env_id(_length).split(":")[1]
    if _name not in gymnasium.registry:
        gymnasium.register(_name, f"{_MODULE}:Corridor", kwargs={"length": _length})


def collect(length: int, episodes: int, seed: int) -> dict[str, NDArray[Any]]:
    """Episodes of an agent that knows the cue, as arrays of all their steps."""
    rng = np.random.default_rng(seed)
    env = Corridor(length)
    rows: list[tuple[NDArray[np.float32], NDArray[np.float32], float, bool]] = []
    for i in range(episodes):
        obs, info = env.reset(seed=int(rng.integers(2**31)) + i)
        ended = False
        while not ended:
            at_junction = obs[3] > 0
            best = [1.0, info["cue"] if at_junction else 0.0]
            action = np.clip(rng.normal(best, _NOISE), -1.0, 1.0).astype(np.float32)
            following, reward, ended, _, _ = env.step(action)
            rows.append((obs, action, reward, ended))
            obs = following
    observations, actions, rewards, terminals = zip(*rows, strict=True)
    return {
        "observations": np.stack(observations),
        "actions": np.stack(actions),
        "rewards": np.array(rewards, np.float32),
        "terminals": np.array(terminals),
        "timeouts": np.zeros(len(rows), np.bool_),
        "env_id": np.array(env_id(length)),
        "target": np.array(1.0),
    }


def main() -> None:
    """Write a dataset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, choices=LENGTHS, required=True)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    arrays = collect(args.length, args.episodes, args.seed)
    write_atomically(
        str(args.out), lambda path: np.savez_compressed(path, allow_pickle=False, **arrays)
    )
    lengths = np.diff(np.flatnonzero(arrays["terminals"]), prepend=-1)
    print(f"{args.out}: {args.episodes} episodes of {lengths.min()} to {lengths.max()} steps")


if __name__ == "__main__":
    main()
