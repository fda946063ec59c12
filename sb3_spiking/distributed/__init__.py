"""Stable-Baselines3 in more than one process, for spiking and dense policies.

    torchrun --nproc-per-node 2 -m sb3_spiking.distributed train --algo td3 --env HalfCheetah-v4

takes RL Zoo's arguments and files; `distribute(model)` is for scripts of your own.
"""

from sb3_spiking.distributed.algorithm import distribute
from sb3_spiking.distributed.evaluation import DistributedEvalCallback

__all__ = ["DistributedEvalCallback", "distribute"]
