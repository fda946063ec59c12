"""Operations and energy: counted, simulated, estimated or measured, never mixed.

count.py counts what a network computes on real inputs, metrics.py under NeuroBench's names;
constants.py prices it, break_even.py compares it; loihi.py simulates a chip; meter.py reads the
machine's counters, or estimates. A `Figure` keeps a number, its unit, kind and method together.
"""

from policies.energy.constants import COSTS, DEFAULT_COSTS, OperationCosts, costs_named
from policies.energy.count import OperationCount, count_operations
from policies.energy.figures import Figure, Kind, total
from policies.energy.layer_count import LayerCount
from policies.energy.metrics import neurobench_metrics

__all__ = [
    "COSTS",
    "DEFAULT_COSTS",
    "Figure",
    "Kind",
    "LayerCount",
    "OperationCosts",
    "OperationCount",
    "costs_named",
    "count_operations",
    "neurobench_metrics",
    "total",
]
