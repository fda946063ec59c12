"""Make popsan_small.npz: a small PopSAN actor, its actions and gradients, from the numpy reference.

python -m tests.data.make_popsan_small
"""

import itertools
from typing import Any

import numpy as np

from tests.common import DATA
from tests.policies.reference import Array, backward, forward

STEPS, BATCH, OBS, POP, ACTIONS, HIDDEN = 5, 12, 3, 4, 2, (16, 12)


def make(seed: int) -> tuple[dict[str, Array], Array, Array]:
    """Parameters, observations and probe; rounded to float32, so that both precisions agree."""
    rng = np.random.default_rng(seed)
    sizes = [OBS * POP, *HIDDEN, ACTIONS * POP]
    p = {
        "encoder.mean": np.linspace(-3, 3, POP) + 0.2 * rng.standard_normal((OBS, POP)),
        "encoder.std": rng.uniform(0.5, 1.5, (OBS, POP)),
        "decoder.weight": rng.standard_normal((ACTIONS, POP)),
        "decoder.bias": 0.1 * rng.standard_normal(ACTIONS),
    }
    for k, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        p[f"mlp.linears.{k}.weight"] = rng.standard_normal((n_out, n_in)) * 1.5 / np.sqrt(n_in)
        p[f"mlp.linears.{k}.bias"] = 0.1 * rng.standard_normal(n_out)
    p = {name: value.astype(np.float32).astype(np.float64) for name, value in p.items()}
    obs = rng.standard_normal((BATCH, OBS)).astype(np.float32).astype(np.float64)
    probe = rng.standard_normal((BATCH, ACTIONS)).astype(np.float32).astype(np.float64)
    return p, obs, probe


def main() -> None:
    """Take the first seed whose membranes all stay clear of a threshold, and write the file."""
    for seed in range(1000):
        p, obs, probe = make(seed)
        trace = forward(p, obs, STEPS)
        if trace.margin > 1e-4:
            break
    grads = backward(p, obs, trace, probe)
    arrays: dict[str, Any] = {"obs": obs, "probe": probe, "action": trace.action}
    arrays |= {f"weight.{name}": value for name, value in p.items()}
    arrays |= {f"grad.{name}": value for name, value in grads.items()}
    np.savez(DATA / "popsan_small.npz", **arrays)
    print(f"seed {seed}, margin {trace.margin:.1e}")


if __name__ == "__main__":
    main()
