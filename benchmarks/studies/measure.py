"""What is kept of a trained policy: returns, counted operations, evaluations while it learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import TD3
from torch import Tensor, nn

import sb3_spiking  # noqa: F401  # registers the policies
from benchmarks.studies.runs import Training
from policies.actor import PopulationActor
from policies.config import CurrentLIFConfig
from policies.energy import DEFAULT_COSTS, OperationCosts, OperationCount
from policies.report.counting import count_batches

EPISODES, FIRST_SEED = 20, 1_000
# Decisions that operations are averaged over, and how many at a time.
SAMPLE, BATCH = 2_000, 250
# What the counting rules leave out of a spiking actor, in multiply-accumulates: on paper.
EXPONENTIAL, MEMBRANE = 10.0, 1.0


@dataclass(frozen=True)
class Played:
    """A policy and what it met.

    Attributes:
        actor: its network.
        obs: a uniform sample of the observations it visited, [N, obs_dim].
        returns: of each episode.
        lengths: decisions of each.
    """

    actor: nn.Module
    obs: Tensor
    returns: tuple[float, ...]
    lengths: tuple[int, ...]


def count(network: nn.Module, obs: Tensor) -> OperationCount:
    """Operations of a decision, mean over obs [N, obs_dim]; batch norms folded."""
    return count_batches(network, ((part,) for part in obs.split(BATCH)))


def load(training: Training, run: Path) -> TD3:
    """The last policy of a run."""
    torch.set_num_threads(1)
    return TD3.load(run / f"{training.env}.zip", device="cpu")


def play(model: TD3, env_id: str, episodes: int = EPISODES, seed: int = FIRST_SEED) -> Played:
    """Play deterministic episodes; episode k begins with seed + k."""
    env: Any = gymnasium.make(env_id)
    seen, returns, lengths = [], [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        total, steps, over = 0.0, 0, False
        while not over:
            seen.append(np.asarray(obs, np.float32))
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        returns.append(total)
        lengths.append(steps)
    env.close()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(seen), min(SAMPLE, len(seen)), replace=False)
    sample: NDArray[np.float32] = np.stack([seen[index] for index in np.sort(chosen)])
    actor = cast(nn.Module, model.actor.mu)
    return Played(actor, torch.from_numpy(sample), tuple(returns), tuple(lengths))


def operations(found: OperationCount, costs: OperationCosts = DEFAULT_COSTS) -> dict[str, Any]:
    """A count as JSON: zeros among real numbers skipped, and all products of real numbers."""
    every = found.with_zeros()
    return {
        "accumulates": found.accumulates,
        "multiply_accumulates": found.multiply_accumulates,
        "multiply_accumulates_all": every.multiply_accumulates,
        "energy_nj_zeros_skipped": found.energy(costs).value,
        "energy_nj_all_products": every.energy(costs).value,
        "costs": costs.text,
        "firing_rates": found.firing_rates,
        "uncounted": list(found.uncounted),
    }


def left_out(actor: nn.Module) -> float:
    """Multiply-accumulates a decision for exponentials, membranes and currents, which none counts.

    A receptive field's exponential is taken as 10, each update of a membrane or current as one, the
    encoder's integrators and a membrane readout included. A dense actor has none of them.
    """
    if not isinstance(actor, PopulationActor):
        return 0.0
    config = actor.config
    fields = actor.encoder.obs_dim * config.encoder.pop_size
    neurons = sum(layer.out_features for layer in actor.mlp.layers())
    states = neurons * (2.0 if isinstance(config.neuron, CurrentLIFConfig) else 1.0)
    if config.encoder.kind != "analog":
        states += fields
    if config.decoder.kind == "membrane":
        states += actor.decoder.action_dim
    return EXPONENTIAL * fields + MEMBRANE * config.spike_steps * states


def evaluations(run: Path) -> dict[str, list[float]]:
    """Mean returns of the evaluations while it learned."""
    with np.load(run / "evaluations.npz") as data:
        means = data["results"].mean(axis=1)
        return {"steps": data["timesteps"].tolist(), "means": means.tolist()}


def measured(training: Training, run: Path) -> tuple[dict[str, Any], Played]:
    """What every study keeps, and the policy with what it met."""
    played = play(load(training, run), training.env)
    counted = operations(count(played.actor, played.obs))
    more = DEFAULT_COSTS.energy_nj(0.0, left_out(played.actor))
    counted["energy_nj_nothing_left_out"] = counted["energy_nj_all_products"] + more
    kept = {
        "mean": float(np.mean(played.returns)),
        "returns": list(played.returns),
        "lengths": list(played.lengths),
        "evaluations": evaluations(run),
        "operations": counted,
    }
    return kept, played


def population(actor: nn.Module) -> PopulationActor:
    """The actor as a spiking one."""
    assert isinstance(actor, PopulationActor)
    return actor
