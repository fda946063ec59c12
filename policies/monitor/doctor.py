"""Name what is wrong with a spiking network, where, and what helps.

A fault starts somewhere and shows everywhere after it: of a chain of layers only the first that is
silent or saturated is named, and a layer whose input stands still is a victim, not a culprit.

The limits stand far from what sound networks show, untrained and trained (docs/monitoring.md has
the figures), so that a warning means something.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from policies.config import LIFConfig
from policies.monitor.activity import (
    EncoderActivity,
    LayerActivity,
    NetworkActivity,
    ReadoutActivity,
)

Fault = Literal[
    "nan",
    "encoder_range",
    "dead_layer",
    "high_threshold",
    "saturated_layer",
    "deaf_layer",
    "vanishing_surrogate",
    "deaf_readout",
]

# Share of a layer's neurons that never fire, or always: sound networks stay below 0.9.
DEAD = SATURATED = 0.95
# Share of entries that pass a gradient on: 0.02 is the least that a sound network has shown. A
# silent or saturated layer that passes more may come back by itself.
VANISHED = 0.005
# Neurons that a gradient has to reach before its share says something.
REACHED = 8
# Share of a silent layer's neurons that the usual threshold would let fire.
WOULD_FIRE = 0.05
# Share of all observed values that the receptive fields miss, and of those of one dimension.
MISSED, MISSED_ALONE = 0.5, 0.95
# Spike steps below which an encoder's integrator hardly gets to fire.
FEW_STEPS = 3
# Response of a readout: PPO starts with 0.01 by design. Of small populations it may be less by
# chance: the limit shrinks with the square of their size below this one.
DEAF, DEAF_POPULATION = 1e-4, 8
# Neurons whose threshold is that of PopSAN and DSFormer fire under weights of the usual size.
USUAL_THRESHOLD = LIFConfig().v_threshold


@dataclass(frozen=True)
class Finding:
    """A fault, where it is, and what helps.

    Attributes:
        fault: its kind.
        layer: name of the module.
        message: what was seen, with figures.
        remedy: what to do.
        lasting: False for a layer that is silent or saturated now but still learns, as TD3's are at
            times in its first thousand updates: it counts if it stays so.
    """

    fault: Fault
    layer: str
    message: str
    remedy: str
    lasting: bool = True

    def __str__(self) -> str:
        """One line a person can act on."""
        return f"{self.fault} in {self.layer}: {self.message}. {self.remedy}."


def diagnose(activity: NetworkActivity, sparse: Collection[str] = ()) -> list[Finding]:
    """Faults of a network, causes only.

    Args:
        activity: of a batch of observations that the network meets in its task, 64 or more.
        sparse: names of layers that hardly fire by nature, as behind PSSA, which multiplies three
            spikes (up to 0.91 of their neurons never fired in sound networks): only where none at
            all fires are they dead.
    """
    broken = _nan(activity)
    if broken:
        return broken
    findings: list[Finding] = []
    blind = {_body(e.name): found for e in activity.encoders if (found := _encoder(e)) is not None}
    findings += blind.values()
    # A chain (the layers of one SpikingMLP, behind one encoder) stops being judged at its culprit.
    ended = set(blind)
    for layer in activity.layers:
        judged = _body(layer.name) not in ended
        found = _layer(layer, judged=judged, dead=1.0 if layer.name in sparse else DEAD)
        if found is not None:
            findings.append(found)
            if found.fault != "vanishing_surrogate" and _is_chain(layer.name):
                ended.add(_body(layer.name))
    findings += [found for readout in activity.readouts if (found := _readout(readout)) is not None]
    return findings


def _is_chain(name: str) -> bool:
    """Whether a layer feeds the next one only; residual blocks have other ways round it."""
    return ".neurons." in f".{name}"


def _body(name: str) -> str:
    """The module that holds encoder and layers: "actor.mu" of "actor.mu.mlp.neurons.0"."""
    if name == "encoder" or name.endswith(".encoder"):
        return name.removesuffix("encoder").removesuffix(".")
    return f".{name}".partition(".mlp.neurons.")[0].removeprefix(".") if _is_chain(name) else name


def _nan(activity: NetworkActivity) -> list[Finding]:
    remedy = (
        "Training has diverged or the file is damaged: go back to an earlier checkpoint, then "
        "lower the learning rate or clip the gradient"
    )
    if activity.broken:
        first = activity.broken[0]
        names = ", ".join(activity.broken[:4]) + (", ..." if len(activity.broken) > 4 else "")
        return [Finding("nan", _layer_of(first), f"NaN or infinity in {names}", remedy)]
    spoilt = [layer.name for layer in activity.layers if not layer.finite]
    spoilt += [readout.name for readout in activity.readouts if not readout.finite]
    if spoilt:
        return [Finding("nan", spoilt[0], "its output is NaN or infinite", remedy)]
    if activity.failed:
        return [Finding("nan", "network", activity.failed, remedy)]
    return []


def _layer_of(tensor: str) -> str:
    """The module that a parameter belongs to."""
    return tensor.rpartition(".")[0] or tensor


def _encoder(encoder: EncoderActivity) -> Finding | None:
    if not encoder.learned:  # the statistics in front of it will still move the data
        return None
    if encoder.fed and not encoder.tells:
        return Finding(
            "encoder_range",
            encoder.name,
            "it answers all observations alike: its receptive fields are far wider than they, or "
            "far away",
            "Set encoder_range and encoder_std to the data's (3 and None with normalize_obs=True)",
            lasting=encoder.spread >= 1.0,
        )
    missed = encoder.missed
    alone = (missed >= MISSED_ALONE).nonzero().flatten().tolist()
    if float(missed.mean()) < MISSED and not alone:
        return None
    worst = alone or missed.argsort(descending=True).tolist()
    shown = ", ".join(map(str, worst[:8])) + (", ..." if len(worst) > 8 else "")
    remedy = (
        "Set normalize_obs=True (or wrap the environment in VecNormalize), or widen encoder_range "
        "and encoder_std"
    )
    if encoder.steps < FEW_STEPS and encoder.firing_rate is not None:
        remedy = f"Raise spike_steps ({encoder.steps} now), or use encoder='analog'. {remedy}"
    return Finding(
        "encoder_range",
        encoder.name,
        f"{float(missed.mean()):.0%} of the observed values lie where no receptive field answers "
        f"them, most in dimension {shown}",
        remedy,
    )


def _layer(layer: LayerActivity, *, judged: bool, dead: float) -> Finding | None:
    if not judged or not layer.fed:
        return None
    if not layer.driven:
        return _deaf(layer, "its input currents do not depend on what comes in", lasting=True)
    if layer.dead >= dead:
        return _silent(layer)
    if layer.saturated >= SATURATED:
        return _saturated(layer)
    if not layer.tells:
        recovers = _may_come_back(layer, torch.ones_like(layer.silent_neurons))
        seen = "its spikes are the same for all observations"
        return _deaf(layer, seen, lasting=not recovers)
    # Silent and saturated layers pass nothing by nature, whatever made them so.
    quiet = max(layer.dead, layer.saturated) >= DEAD
    if not quiet and _vanished(layer):
        return Finding(
            "vanishing_surrogate",
            layer.name,
            f"the surrogate passes a gradient at {layer.flow:.2%} of its entries: the layers "
            "before it do not learn",
            "Set surrogate_width near 1 in units of v, or lower the learning rate if its weights "
            "have grown large (actor_lr_scale, weight decay)",
        )
    return None


def _vanished(layer: LayerActivity) -> bool:
    if layer.gradient is None or layer.gradient.share() >= VANISHED:
        return False
    reached = int((layer.gradient.reached > 0).sum())
    return reached >= min(REACHED, len(layer.gradient.reached))


def _deaf(layer: LayerActivity, seen: str, *, lasting: bool) -> Finding:
    return Finding(
        "deaf_layer",
        layer.name,
        seen,
        "Check what has frozen or zeroed its weights, and initialise the layer again; lower the "
        "learning rate if it became so in training",
        lasting,
    )


def _may_come_back(layer: LayerActivity, neurons: Tensor) -> bool:
    """Whether a gradient still reaches what feeds these neurons, booleans [N]."""
    return layer.gradient is not None and layer.gradient.share(neurons) >= VANISHED


def _silent(layer: LayerActivity) -> Finding | None:
    would_fire = float((layer.peak > USUAL_THRESHOLD).float().mean())
    if layer.threshold > USUAL_THRESHOLD and would_fire >= WOULD_FIRE:
        reach = float(layer.peak.quantile(0.9))
        return Finding(
            "high_threshold",
            layer.name,
            f"{layer.dead:.0%} of its neurons never fire: v_threshold is {layer.threshold:g}, and "
            f"nine in ten neurons charge no further than {reach:.3g}",
            f"Lower v_threshold, for instance to {USUAL_THRESHOLD:g}, or raise v_decay",
        )
    lasting = not _may_come_back(layer, layer.silent_neurons)
    reach = float(layer.peak.median())
    return Finding(
        "dead_layer",
        layer.name,
        f"{layer.dead:.0%} of its neurons never fire: half of them charge no further than "
        f"{reach:.3g}, with v_threshold {layer.threshold:g}",
        "Lower the learning rate (actor_lr_scale) and train again or go back to an earlier "
        "checkpoint; a layer that is silent from the start needs larger weights or a lower "
        "v_threshold",
        lasting,
    )


def _saturated(layer: LayerActivity) -> Finding:
    return Finding(
        "saturated_layer",
        layer.name,
        f"{layer.saturated:.0%} of its neurons fire at every step whatever the observation, so "
        "they tell nothing",
        "Lower the learning rate (actor_lr_scale) and train again or go back to an earlier "
        "checkpoint; raise v_threshold or lower v_decay and i_decay if it is so from the start",
        lasting=not _may_come_back(layer, layer.saturated_neurons),
    )


def _readout(readout: ReadoutActivity) -> Finding | None:
    if not readout.driven:
        return None
    if readout.stuck:
        return Finding(
            "deaf_readout",
            readout.name,
            "all actions stand at their bounds, whatever the spikes: its values are far beyond 1",
            "Lower the learning rate and train again or go back to an earlier checkpoint; check "
            "its bias and weights",
            lasting=False,
        )
    limit = DEAF * min(1.0, readout.population / DEAF_POPULATION) ** 2
    deaf = (readout.response < limit).nonzero().flatten().tolist()
    if not deaf:
        return None
    shown = ", ".join(map(str, deaf[:8])) + (", ..." if len(deaf) > 8 else "")
    return Finding(
        "deaf_readout",
        readout.name,
        f"value {shown} of {len(readout.response)} hardly depends on the spikes: it moves by "
        f"{float(readout.response[deaf].max()):.1e} of what usual weights would make it, or less",
        "Initialise it again (reset its weight to uniform +-1/sqrt(population)), and check what "
        "has frozen or scaled its weights",
    )
