"""Faults of a network in d3rlpy's words: what to do about them, and warnings that come once."""

import dataclasses
import warnings
from collections.abc import Collection

from policies.monitor import Finding, NetworkActivity, diagnose

# Samples below which a neuron that is silent, or fires at every step, may do so by chance.
FEW = 64
# What is told from spikes alone: of few samples they may all be alike by chance, and behind an
# embedding that says nothing they are.
_BY_CHANCE = ("dead_layer", "high_threshold", "saturated_layer", "deaf_layer")
_FIRST = "blocks.0.attention.input_neuron"

_LEARNED = (
    "Lower the learning rate or clip the gradient (clip_grad_norm of the optimizer's factory), "
    "then train again or go on from an earlier checkpoint"
)
_REMEDIES = {
    "nan": "Training has diverged or the file is damaged: go back to an earlier checkpoint, then "
    "lower the learning rate or clip the gradient",
    "encoder_range": "Set observation_scaler=d3rlpy.preprocessing.StandardObservationScaler() (and "
    "scale actions into [-1, 1]), or widen encoder_range of the encoder's factory",
    "dead_layer": f"{_LEARNED}; a layer that is silent from the start needs a lower v_threshold",
    "saturated_layer": f"{_LEARNED}; raise v_threshold or lower v_decay if it is so from the start",
    "vanishing_surrogate": "Set surrogate_width near 1 in units of v, or lower the learning rate "
    "if its weights have grown large",
    "deaf_readout": "Check what has frozen or scaled the weights of this layer, and make the "
    "algorithm anew to start it again",
}
_STUCK = f"{_LEARNED}; check the bias and the weights of this layer"
_MIX = (
    "Set mix_surrogate_width to 2: attention adds whole numbers of spikes, where a surrogate of "
    "width 1 is 0"
)


class SpikeFaultWarning(UserWarning):
    """A spiking network shows a fault; the text names it, the layer and the remedy."""


def findings_of(activity: NetworkActivity, sparse: Collection[str] = ()) -> list[Finding]:
    """Faults of a network of d3rlpy's, with remedies in terms of its configs.

    Args:
        activity: of one look.
        sparse: names of layers that hardly fire by nature, see `policies.monitor.diagnose`.
    """
    samples = min((layer.counts.shape[0] for layer in activity.layers), default=0)
    found = [
        finding for finding in diagnose(activity, sparse) if not _fed_nothing(activity, finding)
    ]
    broken = any(finding.fault == "nan" for finding in found)
    if not broken and _embedding_is_deaf(activity):
        found = [_EMBEDDING, *(finding for finding in found if finding.fault not in _BY_CHANCE)]
    if samples < FEW:
        found = [finding for finding in found if finding.fault not in _BY_CHANCE]
    return [_reworded(finding) for finding in found]


_EMBEDDING = Finding(
    "deaf_layer",
    "embedding",
    "what it gives the first block is the same for all observations, actions and returns",
    "Check what has frozen or zeroed the encoder, the embeddings or the layer norm behind them, "
    "and make the algorithm anew to start them again",
)


def _embedding_is_deaf(activity: NetworkActivity) -> bool:
    return any(layer.name == _FIRST and not layer.driven for layer in activity.layers)


def _fed_nothing(activity: NetworkActivity, finding: Finding) -> bool:
    """Whether a layer behind attention is a victim: values that are all alike come before it.

    Attention adds them over more or fewer tokens, so its sums differ all the same.
    """
    if finding.fault == "nan" or not finding.layer.endswith(".mix_neuron"):
        return False
    values = finding.layer.removesuffix("mix_neuron") + "value.neuron"
    return any(layer.name == values and not layer.tells for layer in activity.layers)


def _reworded(finding: Finding) -> Finding:
    remedy = _REMEDIES.get(finding.fault, finding.remedy)
    if finding.fault == "vanishing_surrogate" and finding.layer.endswith(".mix_neuron"):
        remedy = _MIX
    if finding.fault == "deaf_readout" and not finding.lasting:
        remedy = _STUCK
    return dataclasses.replace(finding, remedy=remedy)


class Warner:
    """Warns of each fault of each layer once.

    Attributes:
        warned: faults warned of, as (fault, layer).
    """

    def __init__(self) -> None:
        self.warned: set[tuple[str, str]] = set()
        self._doubtful: set[tuple[str, str]] = set()

    def judge(self, findings: list[Finding], when: str) -> int:
        """Warn of what is new, and count the faults.

        A layer that is silent but still learns counts from the second look in a row on.

        Args:
            findings: of one look.
            when: what the warning's text begins with, for instance "step 500".
        """
        faults = [f for f in findings if f.lasting or (f.fault, f.layer) in self._doubtful]
        self._doubtful = {(finding.fault, finding.layer) for finding in findings}
        for finding in faults:
            key = (finding.fault, finding.layer)
            if key not in self.warned:
                self.warned.add(key)
                warnings.warn(SpikeFaultWarning(f"{when}: {finding}"), stacklevel=2)
        return len(faults)
