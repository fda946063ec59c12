"""Faster versions of the sequence functions of `policies.functional`, spike and gradient equal."""

from policies.kernels.lif import fused_lif_sequence

__all__ = ["fused_lif_sequence"]
