"""A pytest plugin: Stable-Baselines3's names of dense policies give the spiking ones.

It counts the spiking forward calls, which proves that the swap was live.
"""

from typing import Any

import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from torch import Tensor

import sb3_spiking
from policies.actor import PopulationBody

ALGORITHMS: list[Any] = [
    *(sb3.TD3, sb3.SAC, sb3.PPO, sb3.A2C, sb3.DQN),
    *(sb3_contrib.TQC, sb3_contrib.CrossQ, sb3_contrib.TRPO, sb3_contrib.QRDQN),
    *(sb3_contrib.MaskablePPO, sb3_contrib.RecurrentPPO, sb3_contrib.ARS),
]
NAMES = {
    "MlpPolicy": sb3_spiking.SpikingPopPolicy,
    "CnnPolicy": sb3_spiking.SpikingPopCnnPolicy,
    "MultiInputPolicy": sb3_spiking.SpikingPopMultiInputPolicy,
    "MlpLstmPolicy": sb3_spiking.SpikingPopLstmPolicy,
    "CnnLstmPolicy": sb3_spiking.SpikingPopCnnLstmPolicy,
    "MultiInputLstmPolicy": sb3_spiking.SpikingPopMultiInputLstmPolicy,
}
calls = 0


@pytest.fixture(autouse=True)
def swap_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap the names, and count, for one test."""
    for algorithm in ALGORITHMS:
        aliases = algorithm.policy_aliases
        for dense, spiking in NAMES.items():
            if dense in aliases:
                monkeypatch.setitem(aliases, dense, aliases[spiking])
    spikes = PopulationBody.spikes

    def counted(self: PopulationBody, *args: Any, **kwargs: Any) -> Tensor:
        global calls
        calls += 1
        return spikes(self, *args, **kwargs)

    monkeypatch.setattr(PopulationBody, "spikes", counted)


def pytest_configure() -> None:
    """One thread, as the other benchmarks."""
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the count."""
    terminalreporter.write_line(f"spiking forward calls: {calls}")
