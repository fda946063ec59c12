"""Batch statistics of a population-coded network, computed anew from observations.

Moving statistics lag behind weights that change. Here each layer's are those of given observations
under today's weights, exactly: from the first layer to the last, since the spikes of one layer
depend on its own statistics and are what the next one receives.

Source: Xu et al. 2026 (CaRe-BN). Differs: the release updates all layers at once in one pass over
the observations, so that deep layers see spikes of statistics that are not final.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from policies.kernels.batch_norm import Moments, moments
from policies.kernels.guard import without_autocast

if TYPE_CHECKING:
    from policies.actor import PopulationBody
    from policies.spiking_mlp import SpikeLinear

# Observations that go through a layer at once.
CHUNK = 512
# Observations that a new network's statistics come from.
FIRST_LOOK = 256


@torch.no_grad()
def recalibrate(body: "PopulationBody", batches: Iterable[Tensor]) -> None:
    """Set a network's moving statistics to those of observations under its present weights.

    Draws of a Poisson encoder leave torch's global generators as they were. Batches are not
    shared between processes: give each the same ones.

    Args:
        body: a PopulationActor or PopulationBody with batch_norm=True.
        batches: observations, [B, obs_dim] each; at least two in all.

    Raises:
        ValueError: if the network has no batch normalization, there are fewer than two
            observations, or currents are not finite.
    """
    if not body.config.batch_norm:
        raise ValueError("recalibrate wants a network with batch_norm=True, got one without")
    device, dtype = body.encoder.mean.device, body.encoder.mean.dtype
    given = [batch.to(device, dtype) for batch in batches]
    count = sum(map(len, given))
    if count < 2:
        raise ValueError(f"batches must hold at least two observations, got {count}")
    chunks = torch.cat(given).tensor_split(-(-count // CHUNK))
    with without_autocast(device):
        _recalibrate(body, chunks)


def estimate_statistics(body: "PopulationBody") -> None:
    """First statistics of a new network: those of normally distributed observations.

    A target network moves away from them slowly.
    """
    if body.encoder.mean.device.type == "meta":
        return
    generator = torch.Generator("cpu").manual_seed(0)
    obs = torch.randn(FIRST_LOOK, body.encoder.obs_dim, generator=generator, device="cpu")
    recalibrate(body, [obs])
    for layer in body.mlp.layers():
        assert layer.norm is not None
        layer.norm.doubt()


def _recalibrate(body: "PopulationBody", chunks: tuple[Tensor, ...]) -> None:
    analog = body.config.encoder.kind == "analog"
    draws = body.config.encoder.kind == "poisson"
    cuda = [chunks[0].device] if chunks[0].device.type == "cuda" else []
    kept = torch.float32 if analog else torch.int8  # spikes of many observations
    spikes = []
    with torch.random.fork_rng(cuda) if draws else nullcontext():
        for obs in chunks:
            obs = obs if body.normalizer is None else body.normalizer(obs)
            spikes.append(_finite(body.encoder(obs)).to(kept))
    for layer, neuron in zip(body.mlp.layers(), body.mlp.neurons, strict=True):
        assert layer.norm is not None
        found = [moments(_raw(layer, x)) for x in spikes]
        layer.norm.settle(_united(found, [x.shape[1] for x in spikes]))
        spikes = [neuron(layer(_real(layer, x)))[0].to(torch.int8) for x in spikes]


def _raw(layer: "SpikeLinear", spikes: Tensor) -> Tensor:
    """Currents [T, B, out] without bias and norm."""
    return layer.raw_currents(_real(layer, spikes))


def _real(layer: "SpikeLinear", spikes: Tensor) -> Tensor:
    return spikes.to(layer.weight.dtype)


def _finite(spikes: Tensor) -> Tensor:
    if not bool(torch.isfinite(spikes).all()):
        raise ValueError(
            "batches must be finite, and finite behind the normalizer and the receptive fields"
        )
    return spikes


def _united(parts: list[Moments], sizes: list[int]) -> Moments:
    """Statistics of all chunks together, from each one's own.

    Source: Chan, Golub, LeVeque 1983 (merging moments).
    """
    means, variances, mean_errors, var_errors = (
        torch.stack(column).double() for column in zip(*parts, strict=True)
    )
    share = torch.tensor(sizes, dtype=torch.float64, device=means.device)[:, None] / sum(sizes)
    mean = (share * means).sum(dim=0)
    var = (share * (variances + (means - mean).square())).sum(dim=0)
    if not bool(torch.isfinite(mean + var).all()):
        raise ValueError("currents became NaN or infinite: look for weights that are")
    errors = [(share.square() * x).sum(dim=0) for x in (mean_errors, var_errors)]
    return Moments(mean, var, *errors)
