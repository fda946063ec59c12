"""Small files that several tests of the command line train from."""

from pathlib import Path

import numpy as np

from d3rlpy_spiking.cli import main

CONTINUOUS = """\
algorithm: dsformer
train: {n_steps: 40, n_steps_per_epoch: 10, eval_episodes: 1}
config:
  batch_size: 4
  context_size: 4
  num_layers: 1
  ptbn_steps: 2
  encoder_factory: {type: vector, params: {hidden_units: [8], exclude_last_activation: true}}
  optim_factory:
    type: adam_w
    params:
      lr_scheduler_factory: {type: warmup_cosine, params: {total_steps: 50, warmup_steps: 5}}
  observation_scaler: {type: standard}
  action_scaler: {type: min_max, params: {minimum: [-2], maximum: [2]}}
"""

DENSE = """\
algorithm: discrete_decision_transformer
train: {n_steps: 20, n_steps_per_epoch: 10}
config:
  batch_size: 4
  context_size: 4
  num_layers: 1
  num_heads: 1
  encoder_factory: {type: vector, params: {hidden_units: [8]}}
"""

MAZE = """\
algorithm: strl
train: {n_steps: 10, n_steps_per_epoch: 10}
maze: {n_mazes: 4, n_unseen: 2, size: 5, trajectories_per_maze: 3, test_steps: 30}
config:
  batch_size: 4
  context_size: 4
  num_layers: 1
  num_heads: 2
  encoder_factory: {type: spiking_wavefront, params: {feature_size: 16, iterations: 12}}
"""


def write(folder: Path, text: str, name: str = "tiny") -> str:
    path = folder / f"{name}.yml"
    path.write_text(text)
    return str(path)


def write_npz(path: Path, observations: int, *, discrete: bool) -> str:
    """Six episodes of 20 random steps, of Pendulum's or CartPole's shapes."""
    rng = np.random.default_rng(0)
    steps = 120
    ends = np.arange(1, steps + 1) % 20 == 0
    actions = rng.integers(0, 2, (steps, 1)) if discrete else rng.uniform(-2, 2, (steps, 1))
    np.savez(
        path,
        observations=rng.normal(size=(steps, observations)),
        actions=actions,
        rewards=rng.normal(size=steps),
        terminals=ends,
        timeouts=np.zeros(steps, bool),
    )
    return str(path)


def train(folder: Path, config: str, dataset: str, *args: str) -> int:
    return main(["train", "--config", config, "--dataset", dataset, "--output", str(folder), *args])
