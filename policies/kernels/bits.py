"""float32 and bfloat16 numbers in compiled loops; numba knows no bfloat16, so they are uint16 here.

Rows are read with `widen` and written with `narrow`, which do nothing where an array is float32.
Both compile to a few vector instructions.
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from torch import Tensor

from policies.kernels.jit import compiled


def as_array(x: Tensor) -> NDArray[Any]:
    """A contiguous tensor's memory as an array, bfloat16 as uint16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@intrinsic
def float_of(_context: Any, bits: Any) -> Any:
    """The float32 with these 32 bits."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_of(_context: Any, value: Any) -> Any:
    """The 32 bits of a float32."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


# Compiled code calls them without the typing context.
_float_of: Any = float_of
_bits_of: Any = bits_of


def widen(x: Any) -> Any:
    """An entry of an array, as float32."""
    raise NotImplementedError("for compiled code only")


def narrow(array: Any, x: Any) -> Any:
    """The float32 x as the array's entries are, rounded to nearest even."""
    raise NotImplementedError("for compiled code only")


@overload(widen, strict=False)
def _widen(x: Any) -> Any:
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: _float_of(np.uint32(np.uint32(x) << np.uint32(16)))


@overload(narrow, strict=False)
def _narrow(array: Any, x: Any) -> Any:
    if isinstance(array.dtype, types.Float):
        return lambda array, x: x
    return lambda array, x: _rounded(x)


@compiled
def _rounded(x: Any) -> Any:
    bits: Any = _bits_of(np.float32(x))
    half = np.uint32(0x7FFF) + (np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    # A NaN keeps being one: the addition could carry out of its bits.
    kept = np.uint32(bits + half) >> np.uint32(16)
    return np.uint16(kept if x == x else np.uint32(0x7FC0))
