"""The spike doctor for algorithms of d3rlpy."""

from typing import Any

from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import ReplayBufferBase

from d3rlpy_spiking.dataset_checks import ANY_RANGE, check_dataset
from d3rlpy_spiking.monitor import qlearning
from d3rlpy_spiking.monitor.faults import FEW, findings_of
from d3rlpy_spiking.monitor.look import look, sparse_layers
from d3rlpy_spiking.monitor.samples import contexts, steps
from policies.config import check_count
from policies.monitor import Finding, NetworkActivity

# Contexts of a transformer, or steps of another algorithm, that the doctor looks at.
SAMPLES = 64


def activity_of(
    algo: Any, data: Any, samples: int = SAMPLES
) -> tuple[NetworkActivity, list[Finding]]:
    """What the spiking networks of an algorithm do with data, and their faults; see `examine`."""
    check_count("samples", samples)
    if isinstance(data, ReplayBufferBase):
        discrete = algo.get_action_type() == ActionSpace.DISCRETE
        check_dataset(data, discrete=discrete, action_scaler=ANY_RANGE)
    if getattr(algo, "impl", None) is None:
        raise ValueError("the algorithm is not built yet: call fit, build_with_dataset or load it")
    network = getattr(algo.impl, "network", None)
    if network is not None:
        batch = contexts(algo, data, samples)
        _check_steps(int(batch.masks.sum()))
        activity = look(network, batch)
        sparse = sparse_layers(network)
    elif not hasattr(algo, "as_stateful_wrapper") and qlearning.Networks(algo).trunks:
        observations, actions = steps(algo, data, samples)
        _check_steps(len(observations))
        activity = qlearning.look(algo, observations, actions)
        sparse = set()
    else:
        raise ValueError(
            f"{type(algo).__name__} holds no spiking network: take one of d3rlpy_spiking's "
            "algorithms, or PopulationSpikingEncoderFactory in an encoder field"
        )
    return activity, findings_of(activity, sparse)


def examine(algo: Any, data: Any, samples: int = SAMPLES) -> list[Finding]:
    """Faults of an algorithm's spiking networks, with their causes' layers and remedies.

    In one look nothing can be told of a layer that is silent but still learns, as it may be early
    in training: such a finding has `lasting` False.

    Args:
        algo: a built spiking transformer, or a Q-learning algorithm with spiking encoders.
        data: a ReplayBuffer of the task, or a batch as d3rlpy samples it.
        samples: contexts of a transformer, or steps for another algorithm, taken evenly from a
            ReplayBuffer, >= 1; 64 environment steps are needed in all, where a step counts in each
            context that it stands in.

    Returns:
        what was found; empty for a sound network.

    Raises:
        TypeError: if data is of another kind.
        ValueError: if the algorithm is not built or holds no spiking network, or the data is
            broken, does not fit it or is too little.
    """
    return activity_of(algo, data, samples)[1]


def _check_steps(seen: int) -> None:
    if seen < FEW:
        raise ValueError(
            f"data must hold at least {FEW} environment steps to judge by, got {seen}; pass more "
            "of them, or raise samples"
        )
