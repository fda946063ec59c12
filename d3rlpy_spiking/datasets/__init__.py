"""Offline datasets: made from agents, read from files, checked, scored.

Every function here returns d3rlpy's own `ReplayBuffer`, with the kind and the number of actions
stated rather than guessed. An episode of T steps holds T observations, the ones that the actions
were taken in; the observation after its last step is not stored.

d3rlpy keeps transitions. An episode of one step that ends in a timeout has none, since its next
observation is unknown: `ReplayBuffer` leaves it out.
"""

from d3rlpy_spiking.datasets.episodes import drop_short_episodes
from d3rlpy_spiking.datasets.files import load_buffer, load_npz, save_npz
from d3rlpy_spiking.datasets.minari_data import load_minari
from d3rlpy_spiking.datasets.rollout import collect_from_sb3
from d3rlpy_spiking.datasets.scores import d4rl_score
from d3rlpy_spiking.datasets.spaces import action_scaler

__all__ = [
    "action_scaler",
    "collect_from_sb3",
    "d4rl_score",
    "drop_short_episodes",
    "load_buffer",
    "load_minari",
    "load_npz",
    "save_npz",
]
