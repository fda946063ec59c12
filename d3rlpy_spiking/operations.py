"""Counted operations of d3rlpy's transformer algorithms, spiking or dense."""

from typing import Any

from d3rlpy.models.torch.transformers import CausalSelfAttention
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch, unwrap_ddp_model
from torch import Tensor, nn

from d3rlpy_spiking.maze.observation import GOAL_PLANE, PASSAGE_PLANES
from d3rlpy_spiking.maze.planner import WavefrontPlanner
from policies.energy import OperationCount
from policies.energy import count_operations as count_core
from policies.energy.layer_count import LayerCount


def count_operations(algo: Any, batch: TorchTrajectoryMiniBatch) -> OperationCount:
    """Operations of one decision with a full context, mean over a batch.

    Counted as `policies.energy.count_operations` does, which its docstring states. Dense softmax
    attention: a multiply-accumulate a feature for scores and for values, and two a head, for every
    pair of a query and a key that is not later.

    Args:
        algo: any built transformer algorithm, of this library or of d3rlpy.
        batch: contexts, scaled as the algorithm's `update` scales them.

    Returns:
        counts, by module name.
    """
    network = unwrap_ddp_model(algo.impl.modules.transformer)
    return count_core(
        network,
        batch.observations,
        batch.actions,
        batch.returns_to_go,
        batch.timesteps,
        1 - batch.masks,
        rules={CausalSelfAttention: _dense_attention, WavefrontPlanner: _planner},
    )


def _dense_attention(
    module: nn.Module, args: tuple[Any, ...], _output: Any, _samples: int
) -> LayerCount:
    _, length, width = args[0].shape
    pairs = length * (length + 1) / 2
    heads: Any = module._num_heads
    return LayerCount(multiply_accumulates=pairs * 2.0 * (width + heads))


def _planner(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """The wave through the maze: a spike reaches four neighbours; wiring of the gates on spikes."""
    assert isinstance(module, WavefrontPlanner)
    x: Tensor = args[0]
    wiring = 4.0 * float((x[:, :PASSAGE_PLANES] != 0).sum())
    counts, _ = module.wave(module.gates(x), x[:, GOAL_PLANE])
    if module.spiking:
        return LayerCount(accumulates=(wiring + 4.0 * float(counts.sum())) / samples)
    products = 4.0 * module.iterations * counts.numel()
    return LayerCount(accumulates=wiring / samples, multiply_accumulates=products / samples)
