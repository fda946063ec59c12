"""numba's compiler for the loops here."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at first call, without Python's lock, and keep the result on disk.

    Where numba finds no folder to write to (an installation and a home that are read-only), the
    result is kept for this process only.
    """
    try:
        loop: Any = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        loop = njit(nogil=True)(function)
    return cast(Function, loop)
