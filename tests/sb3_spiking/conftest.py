"""Tests of what imports numba are left out where it is missing."""

from policies.kernels.choice import has_numba

collect_ignore = [] if has_numba() else ["test_event_driven.py"]
