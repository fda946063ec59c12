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

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from d3rlpy.algos.transformer.torch.decision_transformer_impl import (
    DiscreteDecisionTransformerImpl,
)
from d3rlpy.optimizers import OptimizerWrapper
from torch import nn

from d3rlpy_spiking.impl import SpikingImpl
from policies.distributed import (
    average_gradients,
    broadcast_state,
    gather_objects,
    share_statistics,
    world_size,
)
from policies.distributed.group import active, sum_number

Algorithm = TypeVar("Algorithm")


class AveragingOptimizer(OptimizerWrapper):
    """d3rlpy's optimizer, which first replaces gradients by their mean over the ranks."""

    before_update: Callable[[], None]

    def step(self) -> None:
        """Average, clip, move the parameters and the learning rate."""
        self.before_update()
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


class FirstUpdate:
    """Before the first update: what `fit` has built since `distribute` must be alike too.

    Args:
        algo: a built algorithm.
    """

    def __init__(self, algo: Any) -> None:
        self._algo = algo
        self._done = False

    def __call__(self) -> None:
        """Compare, once.

        Raises:
            ValueError: see `check_alike`.
        """
        if not self._done:
            self._done = True
            check_alike(self._algo)


def check_alike(algo: Any) -> None:
    """Raise unless all ranks train by the same config, fitted scalers included.

    Raises:
        ValueError: on every rank, naming what differs.
    """
    if world_size() == 1:
        return
    modules = algo.impl.modules.get_torch_modules().values()
    ours = {
        "algorithm": type(algo).__name__,
        "config": _settings(algo.config),
        # d3rlpy calls train() on the whole only
        "parts in another mode than the whole": [
            name
            for module in modules
            for name, part in module.named_modules()
            if part.training != module.training
        ],
    }
    first, *others = gather_objects(ours)
    for number, theirs in enumerate(others, start=1):
        for name, one, other in _differences(first, theirs):
            raise ValueError(
                f"all ranks must train alike, but {name} is {one} on rank 0 and {other} on rank "
                f"{number}; build the algorithm with the same arguments on every rank, and fit "
                "scalers to the same data"
            )


def _settings(config: Any) -> Any:
    """A config as plain values, without scalers that are not fitted: d3rlpy cannot write these."""
    config = copy.copy(config)
    for name in ("observation_scaler", "action_scaler", "reward_scaler"):
        if not getattr(getattr(config, name), "built", True):
            setattr(config, name, None)
    return json.loads(config.serialize())


def _differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two settings differ: name and both values, shortened."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            path = f"{name}.{key}" if name else str(key)
            yield from _differences(one.get(key), other.get(key), path)
    elif repr(one) != repr(other):  # NaN is NaN
        yield name, repr(one)[:80], repr(other)[:80]


def distribute(algo: Algorithm) -> Algorithm:
    """Let a built algorithm of d3rlpy, spiking or dense, train with the same one of other ranks.

    In place: rank 0's weights are copied to all, gradients are averaged, and batch norms use the
    statistics of all ranks' batches. Losses over the tokens that exist are means over those of all
    ranks, and learning rates that follow tokens count those of all ranks. What an algorithm takes
    from its whole batch for itself stays each rank's own, so that N ranks are not quite one process
    with all batches: TACR, TD3+BC, ReBRAC and PRDC scale their loss by the mean of Q, and AWAC's
    weights are a softmax over the batch. Metrics are each rank's own, but for the losses and the
    gradient's norm of spiking transformers. Evaluating and saving wait for nobody: one rank may do
    so alone, and files load anywhere. In a single process nothing changes.

    d3rlpy has no switch for mixed precision: for spiking transformers set matmul="bf16", with
    which all else stays float32.

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
        ValueError: if it is not built, wrapped by d3rlpy already, compiled, has a batch norm or
            an optimizer wrapper of an unknown class, or the ranks' networks or configs differ; for
            scalers, which `fit` may fit, at the first update.
    """
    built: Any = algo
    _check(built)
    if world_size() == 1:
        return algo
    check_alike(built)
    modules = built.impl.modules
    for module in modules.get_torch_modules().values():
        share_statistics(module)
        broadcast_state(module)
    first_update = FirstUpdate(built)
    if isinstance(built.impl, SpikingImpl):
        built.impl.distributed = True
        built.impl.before_update = first_update
        return algo
    for field in dataclasses.fields(modules):
        part = getattr(modules, field.name)
        if isinstance(part, OptimizerWrapper):
            part.__class__ = AveragingOptimizer
            part.before_update = first_update
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
    _check_modules(algo.impl)


def _check_modules(impl: Any) -> None:
    for field in dataclasses.fields(impl.modules):
        part = getattr(impl.modules, field.name)
        known = type(part) in (OptimizerWrapper, AveragingOptimizer)
        if isinstance(part, OptimizerWrapper) and not (known or isinstance(impl, SpikingImpl)):
            raise ValueError(
                f"{field.name} is of class {type(part).__name__}, whose step is not known; use an "
                "optimizer factory that gives d3rlpy's OptimizerWrapper"
            )
    for name, module in impl.modules.get_torch_modules().items():
        if any(isinstance(part, nn.parallel.DistributedDataParallel) for part in module.modules()):
            raise ValueError(
                f"{name} is wrapped in DistributedDataParallel by d3rlpy already; create the "
                "algorithm without enable_ddp"
            )
