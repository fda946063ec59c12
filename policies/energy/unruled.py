"""Finds what a model multiplies where no counting rule looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Products of matrices beyond those that PyTorch's own counter of operations knows.
_FURTHER = {
    torch.ops.aten.mv,
    torch.ops.aten.dot,
    torch.ops.aten.addmv,
    torch.ops.aten._int_mm,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_attention_math,
}
# Two tensors added; a number and a parameter added are a gain, most likely.
_SUMS = {torch.ops.aten.add, torch.ops.aten.sub}
# What takes rows out of a table.
_LOOKUPS = {
    torch.ops.aten.embedding,
    torch.ops.aten.gather,
    torch.ops.aten.index,
    torch.ops.aten.index_select,
}
# Spreads of a policy's actions: drawn with, not multiplied by inputs.
_SPREADS = {"log_std", "_logstd"}


class Unruled(TorchDispatchMode):
    """Names modules that ran and whose products no rule counts.

    Two signs, while no module with a rule runs: a product of matrices, wherever its operands are
    from; and an operation on a parameter, unless it looks up rows or adds the parameter to an
    input.

    Args:
        has_rule: whether a module has a rule, which answers for all that runs inside it.
    """

    def __init__(self, has_rule: Callable[[nn.Module], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._has_rule = has_rule
        self._running: list[tuple[str, nn.Module]] = []
        self._ruled = 0
        self._parameters: set[int] = set()
        self._found: dict[str, None] = {}  # in order

    @property
    def names(self) -> tuple[str, ...]:
        """Modules found, as "name (type)"."""
        return tuple(self._found)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch what runs inside."""
        self._parameters = {
            parameter.untyped_storage().data_ptr()
            for module in model.modules()
            for key, parameter in module._parameters.items()
            if parameter is not None and parameter.numel() > 0 and key not in _SPREADS
        }
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(name)))
            handles.append(module.register_forward_hook(self._leaving))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, _args: Any) -> None:
            self._running.append((name, module))
            self._ruled += self._has_rule(module)

        return hook

    def _leaving(self, module: nn.Module, _args: Any, _output: Any) -> None:
        self._running.pop()
        self._ruled -= self._has_rule(module)

    def _note(self) -> None:
        name, module = self._running[-1]
        kind = type(module).__name__
        self._found[f"{name} ({kind})" if name else f"the model itself ({kind})"] = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note the module that it belongs to if it is a product."""
        if self._ruled == 0 and self._running and self._multiplies(func, args, kwargs):
            self._note()
        return func(*args, **(kwargs or {}))

    def _multiplies(self, func: Any, args: Any, kwargs: Any) -> bool:
        packet = func._overloadpacket
        if packet in flop_registry or packet in _FURTHER:
            return True
        if func.is_view or packet in _LOOKUPS:
            return False
        if packet in _SUMS and all(isinstance(operand, Tensor) for operand in args[:2]):
            return False
        return any(
            isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() in self._parameters
            for leaf in tree_leaves((args, kwargs))
        )
