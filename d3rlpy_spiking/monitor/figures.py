"""Numbers for d3rlpy's logs, from one look at a network.

Names have no "/", since d3rlpy makes files of them.
"""

from policies.energy import OperationCount
from policies.monitor import NetworkActivity


def summary(activity: NetworkActivity) -> dict[str, float]:
    """Figures of the whole network.

    `dead` and `saturated` are shares of its spiking neurons, `gradient_flow` the least over layers
    of the share of entries where the surrogate passes a gradient, `coverage` the least over
    population encoders of the share of observed values inside the receptive fields.
    """
    layers = activity.layers
    out: dict[str, float] = {}
    neurons = sum(layer.counts.shape[1] for layer in layers)
    if neurons:
        for name in ("dead", "saturated"):
            total = sum(getattr(layer, name) * layer.counts.shape[1] for layer in layers)
            out[name] = total / neurons
    flows = [layer.flow for layer in layers if layer.flow is not None]
    if flows:
        out["gradient_flow"] = min(flows)
    if activity.encoders:
        out["coverage"] = min(encoder.coverage for encoder in activity.encoders)
    return out


def rates(activity: NetworkActivity) -> dict[str, float]:
    """Mean firing rate over encoders and layers, the lowest and the highest."""
    values = list(activity.firing_rates.values())
    if not values:
        return {}
    return {
        "firing_rate": sum(values) / len(values),
        "firing_rate_min": min(values),
        "firing_rate_max": max(values),
    }


def per_action(count: OperationCount) -> dict[str, float]:
    """Counted operations of a decision, and their energy at the default constants."""
    return {
        "accumulates_per_action": count.accumulates,
        "multiply_accumulates_per_action": count.multiply_accumulates,
        "energy_nj_per_action": count.energy_nj,
    }


def by_layer(activity: NetworkActivity) -> dict[str, float]:
    """Figures of each layer, as `firing_rate.LAYER`, `dead.LAYER` and so on."""
    out = {f"firing_rate.{name}": rate for name, rate in activity.firing_rates.items()}
    for layer in activity.layers:
        out[f"dead.{layer.name}"] = layer.dead
        out[f"saturated.{layer.name}"] = layer.saturated
        if layer.flow is not None:
            out[f"gradient_flow.{layer.name}"] = layer.flow
    return out
