"""One look at a spiking transformer: what its layers do with contexts of a batch."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from torch import Tensor, nn

from d3rlpy_spiking.transformer import JointTokenTransformer, SpikingBackbone, SpikingNetwork
from policies.attention import PositionalAttention
from policies.monitor import NetworkActivity, probe
from policies.monitor.raster import Raster, record
from policies.normalization import PTBN, TdBN
from policies.transformer import SpikingSelfAttention

# Environment steps of a look: enough for rates, few beside a batch.
STEPS = 256
# Training forwards after which less than 1 % of running statistics are their start value.
SETTLED = 50


def look(network: SpikingNetwork, batch: TorchTrajectoryMiniBatch) -> NetworkActivity:
    """What the parts of a transformer do with contexts; padding is left out.

    The network runs as it decides, but for norms whose batch statistics are not learned yet: PTBN
    while theta is above 0, and any batch norm in its first 50 steps. These use the batch's own
    statistics, as in training, since what evaluation would show then is no property of the weights.
    Nothing moves, and no other process is asked.

    Args:
        network: of one of this package's algorithms.
        batch: contexts, scaled as the algorithm's `update` scales them.

    Returns:
        activity; names are those below the network, without the way to the transformer.
    """
    head = next(name for name, module in network.named_modules() if module is network.head)

    mask = batch.masks.reshape(batch.masks.shape[:2])
    actions: list[Tensor] = []

    def run() -> Tensor:
        out = _forward(network, batch)
        discrete = isinstance(out, tuple)
        values: Tensor = out[1] if discrete else out  # logits, not their probabilities
        if not discrete:
            actions.append(values.detach()[mask > 0])
        return values

    activity = probe(network, run, {head: mask})
    if actions and _stuck(actions[0]):
        readouts = tuple(dataclasses.replace(item, stuck=True) for item in activity.readouts)
        activity = dataclasses.replace(activity, readouts=readouts)
    return _shortened(activity, way(network))


def _stuck(actions: Tensor) -> bool:
    """Whether actions [S, A] stand at their bounds, the same ones in all samples."""
    return bool((actions.abs() == 1.0).all()) and bool((actions == actions[:1]).all())


def way(network: SpikingNetwork) -> str:
    """What stands before the names of a transformer's parts, in those of its network."""
    core = network.backbone.transformer
    name: str = next(name for name, module in network.named_modules() if module is core)
    return f"{name}."


def _shortened(activity: NetworkActivity, prefix: str) -> NetworkActivity:
    def short(parts: Any) -> Any:
        return tuple(
            dataclasses.replace(item, name=item.name.removeprefix(prefix)) for item in parts
        )

    return dataclasses.replace(
        activity,
        encoders=short(activity.encoders),
        layers=short(activity.layers),
        readouts=short(activity.readouts),
        broken=tuple(name.removeprefix(prefix) for name in activity.broken),
    )


def sparse_layers(network: SpikingNetwork) -> set[str]:
    """Names of the layers behind PSSA, which multiplies three spikes and hardly fires by nature."""
    core = network.backbone.transformer
    return {
        f"{name}.mix_neuron"
        for name, module in core.named_modules()
        if isinstance(module, SpikingSelfAttention) and isinstance(module.mix, PositionalAttention)
    }


def part(batch: TorchTrajectoryMiniBatch, steps: int = STEPS) -> TorchTrajectoryMiniBatch:
    """The first contexts of a batch, about `steps` environment steps, at least two contexts."""
    contexts = max(2, -(-steps // batch.masks.shape[1]))
    return _indexed(batch, slice(contexts))


def excerpt(network: SpikingNetwork, batch: TorchTrajectoryMiniBatch) -> list[Raster]:
    """Spikes of a batch's longest context, without its padding: a stretch of one episode."""
    mask = batch.masks.reshape(batch.masks.shape[:2])
    best = int(mask.sum(dim=1).argmax())
    length = int(mask[best].sum())
    # d3rlpy pads in front.
    one = _indexed(batch, (slice(best, best + 1), slice(mask.shape[1] - length, None)))
    rasters = record(network, lambda: _forward(network, one))
    tokens = 1 if isinstance(network, JointTokenTransformer) else 3
    inside = way(network)
    return [
        dataclasses.replace(
            raster,
            name=raster.name.removeprefix(inside),
            # The tokens of an environment step stand side by side.
            steps=raster.steps * (tokens if raster.name.startswith(inside) else 1),
        )
        for raster in rasters
    ]


def _indexed(batch: TorchTrajectoryMiniBatch, index: Any) -> TorchTrajectoryMiniBatch:
    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[index]
        if isinstance(value, list | tuple):  # tuple observations
            return type(value)(x[index] for x in value)
        return value

    changes = {
        f.name: cut(getattr(batch, f.name))
        for f in dataclasses.fields(batch)
        if f.name != "numpy_batch"
    }
    return dataclasses.replace(batch, **changes, numpy_batch=None)


def _forward(network: SpikingNetwork, batch: TorchTrajectoryMiniBatch) -> Any:
    """Actions, or probabilities and logits, the network in evaluation mode."""
    with _as_trained(network.backbone):
        return network(
            batch.observations,
            batch.actions,
            batch.returns_to_go,
            batch.timesteps,
            1 - batch.masks,
        )


def young_norms(backbone: SpikingBackbone) -> bool:
    """Whether a look takes batch statistics of its batch, as those of training are not learned."""
    norms = [m for m in backbone.modules() if isinstance(m, PTBN | TdBN)]
    batch_norms = [norm for norm in norms if isinstance(norm, TdBN)]
    progressive = len(norms) > len(batch_norms)
    young = any(int(norm.num_batches_tracked) < SETTLED for norm in batch_norms)
    return young or (progressive and float(backbone.progress.theta) > 0.0)


@contextmanager
def _as_trained(backbone: SpikingBackbone) -> Iterator[None]:
    """Inside a forward in evaluation mode: batch statistics of the batch where none are learned."""
    if not young_norms(backbone):
        yield
        return
    norms = [m for m in backbone.modules() if isinstance(m, PTBN | TdBN)]
    batch_norms = [norm for norm in norms if isinstance(norm, TdBN)]
    learned = [dict(norm._buffers) for norm in batch_norms]
    sums = [norm.sums for norm in batch_norms]
    moved: list[nn.Module] = [backbone, *norms]  # theta is 0 where the backbone evaluates
    modes = [module.training for module in moved]
    try:
        for module in moved:
            module.training = True  # of itself alone: nothing below drops features
        for norm in batch_norms:
            norm.sums = None
            # Copies, which the backward of this forward may still need, move in their place.
            copies = {name: None if x is None else x.clone() for name, x in norm._buffers.items()}
            norm._buffers.update(copies)
        yield
    finally:
        for module, mode in zip(moved, modes, strict=True):
            module.training = mode
        for norm, shared, buffers in zip(batch_norms, sums, learned, strict=True):
            norm.sums = shared
            norm._buffers.update(buffers)
