"""DSFormer and its dense counterpart at the published sizes."""

import dataclasses
from typing import Any

import d3rlpy
from d3rlpy.algos import DecisionTransformerConfig
from d3rlpy.models import VectorEncoderFactory

from benchmarks.speed.actor import ACTIONS, OBS
from benchmarks.speed.choices import Choice
from d3rlpy_spiking import DSFormerConfig

PLAIN, DENSE = "plain version of the released arithmetic", "d3rlpy's dense Decision Transformer"


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of network and batch; the published ones."""

    batch: int = 64
    context: int = 20
    width: int = 256
    layers: int = 3
    steps: int = 4

    def linears(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of every linear layer that sees spikes."""
        block = [(self.width, self.width)] * 4
        block += [(4 * self.width, self.width), (self.width, 4 * self.width)]
        return tuple(block * self.layers)

    @property
    def rows(self) -> int:
        """Rows of those layers' matmuls: T * B * L."""
        return self.steps * self.batch * self.context


SMALL = Size(batch=4, context=6, width=32, layers=1)


def common(size: Size) -> dict[str, Any]:
    """Fields that d3rlpy's config and ours share."""
    return {
        "batch_size": size.batch,
        "context_size": size.context,
        "num_layers": size.layers,
        "encoder_factory": VectorEncoderFactory([size.width], exclude_last_activation=True),
    }


def ours(size: Size, choice: Choice, **fields: Any) -> Any:
    """A DSFormer with the same weights for all choices."""
    d3rlpy.seed(0)
    config = DSFormerConfig(
        **common(size), spike_steps=size.steps, **fields, **choice.kwargs(DSFormerConfig)
    )
    algo = config.create()
    algo.create_impl((OBS,), ACTIONS)
    return algo


def dense(size: Size) -> Any:
    """d3rlpy's Decision Transformer, one head, as wide and as deep."""
    d3rlpy.seed(0)
    algo = DecisionTransformerConfig(**common(size), num_heads=1).create()
    algo.create_impl((OBS,), ACTIONS)
    return algo
