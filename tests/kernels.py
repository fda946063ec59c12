"""Marks of tests that need a kernel's package."""

import pytest

from policies.kernels.choice import has_numba

NEEDS_NUMBA = pytest.mark.skipif(not has_numba(), reason="numba is not installed")
NUMBA = pytest.param("numba", marks=NEEDS_NUMBA)
