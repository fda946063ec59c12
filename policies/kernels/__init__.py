"""Faster versions of what `policies.functional` and matmuls compute, chosen at run time."""
