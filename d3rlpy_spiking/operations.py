"""Counted operations of d3rlpy's algorithms, spiking or dense."""

from typing import Any

from d3rlpy.models.torch.transformers import CausalSelfAttention
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch, unwrap_ddp_model
from torch import Tensor, nn

from d3rlpy_spiking.encoders import SpikingTrunk
from d3rlpy_spiking.maze.observation import GOAL_PLANE, PASSAGE_PLANES
from d3rlpy_spiking.maze.planner import WavefrontPlanner
from policies.energy import OperationCount
from policies.energy import count_operations as count_core
from policies.energy.count import Norms
from policies.energy.layer_count import LayerCount, Rule


def count_operations(
    algo: Any, batch: TorchTrajectoryMiniBatch, norms: Norms = "charged"
) -> OperationCount:
    """Operations of one decision with a full context, mean over a batch.

    Counted as `policies.energy.count_operations` does, which its docstring states. The tokens are
    the same at all T spike steps: embeddings run once, the blocks T times, the head on the mean
    once. Dense softmax attention: a multiply-accumulate a feature for scores and for values, and
    two a head, for every pair of a query and a key that is not later. The planner: an accumulate
    for each cell's wall or opening, for each neighbour that a spike reaches, and four products
    where the agent stands; its constants (gate times charge) cost nothing.

    Args:
        algo: any built transformer algorithm, of this library or of d3rlpy.
        batch: contexts, scaled as the algorithm's `update` scales them.
        norms: "charged", or "folded": see `policies.energy.count_operations`.

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
        rules=RULES,
        norms=norms,
    )


def count_decision(algo: Any, observations: Tensor, norms: Norms = "charged") -> OperationCount:
    """Operations of a greedy action of a Q-learning algorithm, mean over a batch.

    Counted is what d3rlpy runs for `predict`: a policy, or all Q functions of an ensemble. An
    encoder of PopulationSpikingEncoderFactory adds two products an input, which bend it into the
    receptive fields' range.

    Args:
        algo: any built Q-learning algorithm, of d3rlpy.
        observations: [B, ...], scaled as the algorithm scales them.
        norms: "charged", or "folded": see `policies.energy.count_operations`.

    Returns:
        counts, by name of the algorithm's modules.

    Raises:
        TypeError: if the algorithm decides on contexts.
    """
    if not hasattr(algo.impl, "inner_predict_best_action"):
        raise TypeError(
            f"algo must be a built Q-learning algorithm, got {type(algo).__name__}; contexts of "
            "transformers go to count_operations, and create_impl or fit builds an algorithm"
        )
    return count_core(_Decision(algo.impl), observations, rules=RULES, norms=norms)


class _Decision(nn.Module):
    """What an implementation runs for a greedy action, over modules under its own names."""

    def __init__(self, impl: Any) -> None:
        super().__init__()
        self._decide = impl.inner_predict_best_action
        for name, module in vars(impl.modules).items():
            if isinstance(module, nn.Module):
                self.add_module(name, unwrap_ddp_model(module))

    def forward(self, observations: Tensor) -> Tensor:
        """Greedy actions."""
        actions: Tensor = self._decide(observations)
        return actions


def _dense_attention(
    module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int
) -> LayerCount:
    batch, length, width = args[0].shape
    pairs = batch * length * (length + 1) / 2
    heads: Any = module._num_heads
    count = pairs * 2.0 * (width + heads) / samples
    return LayerCount(multiply_accumulates=count, dense=count, kind="attention")


def _planner(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    assert isinstance(module, WavefrontPlanner)
    x: Tensor = args[0]
    planes = x[:, :PASSAGE_PLANES]
    wiring = float((planes != 0).sum())  # a plane sets the gate of its own direction
    counts, _ = module.wave(module.gates(x), x[:, GOAL_PLANE])
    read = 4.0 * len(x)
    steps = 4.0 * module.iterations * counts.numel()
    dense = (planes.numel() + steps + read) / samples
    wave = 4.0 * float(counts.sum())
    adds, products = (wiring + wave, read) if module.spiking else (wiring, steps + read)
    return LayerCount(adds / samples, products / samples, dense=dense, spiked=module.spiking)


def _trunk(module: nn.Module, args: tuple[Any, ...], _output: Any, samples: int) -> LayerCount:
    """What bends inputs into range; the body inside counts for itself."""
    assert isinstance(module, SpikingTrunk)
    count = 2.0 * len(args[0]) * module.body.encoder.obs_dim / samples
    return LayerCount(multiply_accumulates=count, dense=count, kind="encoder")


RULES: dict[type[nn.Module], Rule] = {
    CausalSelfAttention: _dense_attention,
    WavefrontPlanner: _planner,
    SpikingTrunk: _trunk,
}
