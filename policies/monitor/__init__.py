"""Look into a spiking network while it works: what each part does, and what is wrong with it.

probe.py runs it once and gathers a NetworkActivity; doctor.py names faults in it; raster.py draws
the spikes of an episode.
"""

from policies.monitor.activity import (
    EncoderActivity,
    LayerActivity,
    NetworkActivity,
    ReadoutActivity,
)
from policies.monitor.doctor import Finding, diagnose
from policies.monitor.probe import probe

__all__ = [
    "EncoderActivity",
    "Finding",
    "LayerActivity",
    "NetworkActivity",
    "ReadoutActivity",
    "diagnose",
    "probe",
]
