"""Spikes in d3rlpy's logs, and the spike doctor.

Spiking transformers log by themselves, through whatever logger `fit` has. Their config's
`monitor_every` is the number of gradient steps between two looks, 500 by default, 0 for none. A
look runs a part of the minibatch through the network once more; it changes nothing. Between the
metrics of d3rlpy stand then

    dead, saturated         shares of spiking neurons that no sample makes fire, or that always do
    gradient_flow           least over layers: share of entries that pass the surrogate's gradient
    coverage                share of observed values inside receptive fields, of spiking encoders
    accumulates_per_action, multiply_accumulates_per_action, energy_nj_per_action
                            counted for a decision with a full context as the network would decide
                            now; see policies.energy
    faults                  faults now, of which each is a SpikeFaultWarning once

and of each layer `firing_rate.LAYER`, `dead.LAYER`, `saturated.LAYER`, `gradient_flow.LAYER`.
`firing_rate`, `firing_rate_min` and `firing_rate_max` are those of every step. A metric of an epoch
is the mean over the epoch's looks; epochs without one have none.

    SpikeTensorboardAdapterFactory()    d3rlpy's TensorBoard files with histograms and pictures
    SpikeMonitor(dataset)               the same for Q-learning algorithms with spiking encoders
    examine(algo, dataset)              the faults of an algorithm now
"""

from d3rlpy_spiking.monitor.adapters import SpikeTensorboardAdapterFactory
from d3rlpy_spiking.monitor.examine import examine
from d3rlpy_spiking.monitor.faults import SpikeFaultWarning
from d3rlpy_spiking.monitor.qlearning import SpikeMonitor
from policies.monitor import Finding

__all__ = [
    "Finding",
    "SpikeFaultWarning",
    "SpikeMonitor",
    "SpikeTensorboardAdapterFactory",
    "examine",
]
