"""Energy of the acting network on a simulated chip."""

import torch

from policies.energy.figures import Figure
from policies.report import Absent, Energy, Summary
from policies.report.counting import times_length
from policies.report.fill import SIMULATED, not_simulated
from sb3_spiking.acting import ActingNetwork
from sb3_spiking.saved.episodes import Visit, batches


def check_simulator() -> None:
    """Raise unless the simulator is installed.

    Raises:
        ImportError: naming what to install.
    """
    from policies.energy.loihi_process import check_installed

    check_installed()


@torch.no_grad()
def simulate(
    network: ActingNetwork, visits: tuple[Visit, ...], lengths: Summary | Absent
) -> tuple[Energy, str]:
    """Simulate some of the decisions that were played.

    Returns:
        the energy, or why there is none; and a sentence on it, or an empty text.
    """
    from policies.energy.loihi import LoihiTimeoutError, LoihiWorkerError, simulate_on_loihi

    features = torch.cat([network.features(*inputs) for inputs in batches(visits)])
    try:
        result = simulate_on_loihi(network.spiking_bodies()[0], features, deterministic=True)
    except (ValueError, LoihiTimeoutError, LoihiWorkerError) as error:
        return not_simulated(str(error)), ""
    decision: Figure = result.energy["total"]
    sentence = (
        f"Loihi: SANA-FE's spikes differ from PyTorch's in {result.spike_mismatches} of "
        f"{result.torch_spikes} in {result.decisions} decisions; simulated chip time "
        f"{result.chip_time.value:.3g} {result.chip_time.unit} a decision."
    )
    if result.warning is not None:
        sentence += f" {result.warning}"
    return Energy("simulated", SIMULATED, decision, times_length(decision, lengths)), sentence
