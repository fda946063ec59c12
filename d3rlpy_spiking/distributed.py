"""d3rlpy's algorithms in several processes, which torchrun starts.

    with process_group():
        d3rlpy.seed(0)  # the same weights
        algo = DSFormerConfig(batch_size=32).create(enable_ddp=True)  # or distribute(algo)
        algo.build_with_dataset(dataset)
        d3rlpy.seed(rank())  # other batches on each rank
        algo.fit(
            dataset,
            n_steps=10_000,
            logger_adapter=FileAdapterFactory() if is_main() else NoopAdapterFactory(),
            show_progress=is_main(),
        )

`python -m d3rlpy_spiking train` does all of this where torchrun starts it.

N ranks take the gradient steps of one process with a batch N times as large: `batch_size` and
d3rlpy's steps are each rank's. Gradients are averaged where they are complete, before the optimizer
clips them, and not by torch's DistributedDataParallel around the network: that one refuses
parameters without gradient, such as PTBN's layer branch at the end of its course, fails in
`load_model`, and waits for other ranks in `predict`. What it gains, messages that travel while
`backward` still runs, begins with the second message of 25 MB.
"""

import dataclasses
from typing import Any, TypeVar

from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DiscreteDecisionTransformerImpl,
)
from d3rlpy.optimizers import OptimizerWrapper
from torch import nn

from d3rlpy_spiking.impl import SpikingImpl
from policies.distributed import average_gradients, broadcast_state, share_statistics, world_size
from policies.distributed.group import active, sum_number

Algorithm = TypeVar("Algorithm")


class AveragingOptimizer(OptimizerWrapper):
    """d3rlpy's optimizer, which first replaces gradients by their mean over the ranks."""

    def step(self) -> None:
        """Average, clip, move the parameters and the learning rate."""
        average_gradients(self._params)
        super().step()


class SharedTokensImpl(DiscreteDecisionTransformerImpl):
    """d3rlpy's learning rate by tokens, from those of all ranks: the same on every rank."""

    @property
    def _tokens(self) -> int:
        return int(self.__dict__["_tokens"])

    @_tokens.setter
    def _tokens(self, value: int) -> None:
        before = self._tokens
        self.__dict__["_tokens"] = before + int(sum_number(value - before))


def distribute(algo: Algorithm) -> Algorithm:
    """Let a built algorithm of d3rlpy, spiking or dense, train with the same one of other ranks.

    In place: rank 0's weights are copied to all, gradients are averaged, and batch norms use the
    statistics of all ranks' batches. Losses over the tokens that exist are means over those of all
    ranks, and learning rates that follow tokens count those of all ranks. What an algorithm scales
    its loss by, as TACR and TD3+BC do by the mean of Q, stays each rank's own. Evaluating and
    saving wait for nobody: one rank may do so alone, and files load anywhere. In a single process
    nothing changes.

    Every rank must call it, then `update` or `fit` as often as the others, each on batches of its
    own. To go on from a file, `distribute(d3rlpy.load_learnable(path))` on every rank: the
    optimizer's state is not copied.

    Args:
        algo: built by `create_impl`, `build_with_dataset` or `load_learnable`. d3rlpy's own ones
            must come from `create` without `enable_ddp`; those of this package may, and call this
            themselves when they are built.

    Returns:
        algo.

    Raises:
        RuntimeError: if this process is in no process group.
        ValueError: if it is not built, wrapped by d3rlpy already, compiled, has a batch norm of an
            unknown class, or the ranks' networks differ.
    """
    built: Any = algo
    _check(built)
    if world_size() == 1:
        return algo
    modules = built.impl.modules
    for module in modules.get_torch_modules().values():
        share_statistics(module)
        broadcast_state(module)
    if isinstance(built.impl, SpikingImpl):
        built.impl.distributed = True
        return algo
    for field in dataclasses.fields(modules):
        part = getattr(modules, field.name)
        if isinstance(part, OptimizerWrapper):
            part.__class__ = AveragingOptimizer
    if type(built.impl) is DiscreteDecisionTransformerImpl:
        built.impl.__class__ = SharedTokensImpl
    return algo


def _check(algo: Any) -> None:
    if not active():
        raise RuntimeError(
            "training in several processes needs a process group: start the script with torchrun "
            "and put `with policies.distributed.process_group():` around it, or leave out "
            "enable_ddp"
        )
    if algo.impl is None:
        raise ValueError("nothing to distribute yet: call build_with_dataset or create_impl first")
    if algo.compiled:
        raise ValueError(
            "compile_graph=True cannot be used in several processes, which exchange data within "
            "the graph; set compile_graph=False"
        )
    for name, module in algo.impl.modules.get_torch_modules().items():
        if any(isinstance(part, nn.parallel.DistributedDataParallel) for part in module.modules()):
            raise ValueError(
                f"{name} is wrapped in DistributedDataParallel by d3rlpy already; create the "
                "algorithm without enable_ddp"
            )
