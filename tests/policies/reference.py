"""PopSAN's actor and its gradients written out by hand in float64 numpy: no autograd, no folding.

Time is the outer loop and every neuron is advanced in it, as in the paper; the gradient is
back-propagation through time with the surrogate written into the recursion. Slow and plain on
purpose: it shares nothing with `policies` but the formulas.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ENCODER_THRESHOLD = 0.999
I_DECAY, V_DECAY, THRESHOLD, HALF_WIDTH = 0.5, 0.75, 0.5, 0.5


@dataclass
class Trace:
    """What the backward pass needs from the forward one; lists run over spike steps."""

    activation: Array
    encoder_spikes: list[Array]
    v: list[list[Array]]  # charged membrane of each layer, before the reset
    spikes: list[list[Array]]
    rate: Array
    action: Array
    margin: float  # distance of the closest membrane to a decision that would change the result


def forward(p: dict[str, Array], obs: Array, steps: int) -> Trace:
    """Actions [B, A] of observations [B, O]; p holds PopulationActor's parameter names."""
    batch = obs.shape[0]
    distance = obs[:, :, None] - p["encoder.mean"]
    activation = np.exp(-0.5 * distance**2 / p["encoder.std"] ** 2).reshape(batch, -1)
    layers = sum(name.endswith("weight") and name.startswith("mlp") for name in p)
    biases = [p[f"mlp.linears.{k}.bias"] for k in range(layers)]
    current = [np.zeros((batch, len(b))) for b in biases]
    v_post = [np.zeros((batch, len(b))) for b in biases]
    v_encoder = np.zeros_like(activation)
    trace = Trace(
        activation, [], [[] for _ in biases], [[] for _ in biases], np.empty(0), np.empty(0), np.inf
    )
    for _ in range(steps):
        v_encoder = v_encoder + activation
        x = (v_encoder > ENCODER_THRESHOLD).astype(np.float64)
        trace.margin = min(trace.margin, float(np.abs(v_encoder - ENCODER_THRESHOLD).min()))
        v_encoder = v_encoder - ENCODER_THRESHOLD * x
        trace.encoder_spikes.append(x)
        for k in range(layers):
            current[k] = I_DECAY * current[k] + x @ p[f"mlp.linears.{k}.weight"].T + biases[k]
            v = V_DECAY * v_post[k] + current[k]
            x = (v > THRESHOLD).astype(np.float64)
            edges = [np.abs(v - THRESHOLD), np.abs(np.abs(v - THRESHOLD) - HALF_WIDTH)]
            trace.margin = min(trace.margin, *(float(edge.min()) for edge in edges))
            v_post[k] = v * (1.0 - x)
            trace.v[k].append(v)
            trace.spikes[k].append(x)
    actions, pop = p["decoder.weight"].shape
    trace.rate = (np.sum(trace.spikes[-1], axis=0) / steps).reshape(batch, actions, pop)
    trace.action = np.tanh((trace.rate * p["decoder.weight"]).sum(axis=2) + p["decoder.bias"])
    return trace


def backward(p: dict[str, Array], obs: Array, trace: Trace, probe: Array) -> dict[str, Array]:
    """Surrogate gradients of sum(action * probe) with respect to every parameter."""
    batch, steps = obs.shape[0], len(trace.encoder_spikes)
    grads = {name: np.zeros_like(value) for name, value in p.items()}
    g_value = probe * (1.0 - trace.action**2)
    grads["decoder.weight"] = np.einsum("ba,bap->ap", g_value, trace.rate)
    grads["decoder.bias"] = g_value.sum(axis=0)
    g_rate = g_value[:, :, None] * p["decoder.weight"]
    g_spikes = [g_rate.reshape(batch, -1) / steps] * steps
    layers = len(trace.v)
    for k in reversed(range(layers)):
        inputs = trace.spikes[k - 1] if k else trace.encoder_spikes
        weight = p[f"mlp.linears.{k}.weight"]
        g_inputs = [np.empty(0)] * steps
        g_v_post = np.zeros_like(trace.v[k][0])
        g_current = np.zeros_like(trace.v[k][0])
        for t in reversed(range(steps)):
            v, s = trace.v[k][t], trace.spikes[k][t]
            # v_post = v (1 - s): through v directly, and through s, which also leaves the layer.
            g_s = g_spikes[t] - g_v_post * v
            surrogate = (np.abs(v - THRESHOLD) < HALF_WIDTH).astype(np.float64)
            g_v = g_v_post * (1.0 - s) + g_s * surrogate
            g_current = g_current * I_DECAY + g_v
            g_v_post = g_v * V_DECAY
            grads[f"mlp.linears.{k}.weight"] += g_current.T @ inputs[t]
            grads[f"mlp.linears.{k}.bias"] += g_current.sum(axis=0)
            g_inputs[t] = g_current @ weight
        g_spikes = g_inputs
    g_activation = np.zeros_like(trace.activation)
    g_v_post = np.zeros_like(trace.activation)
    for t in reversed(range(steps)):
        # Straight-through: d spike / d v = 1; v_post = v - 0.999 s.
        g_v = g_v_post + (g_spikes[t] - ENCODER_THRESHOLD * g_v_post)
        g_activation += g_v
        g_v_post = g_v
    distance = obs[:, :, None] - p["encoder.mean"]
    g_exponent = (g_activation * trace.activation).reshape(distance.shape)
    grads["encoder.mean"] = (g_exponent * distance / p["encoder.std"] ** 2).sum(axis=0)
    grads["encoder.std"] = (g_exponent * distance**2 / p["encoder.std"] ** 3).sum(axis=0)
    return grads
