"""Values from spikes: state values, action values, quantiles, whose range is not known before."""

import torch
from torch import Tensor, nn

from policies.actor import PopulationBody
from policies.checks import check_features
from policies.config import PopulationActorConfig, check_count, check_range
from policies.kernels.guard import without_autocast


class ValueReadout(nn.Module):
    """Activity of one population [B, P] -> values [B, K].

    Each value is a level that all K share plus a difference of its own,

        value_k = gain * (w . activity + b) + w_k . activity + b_k.

    Returns of 100 are common, and the optimizer's steps (Adam's have the size of the learning rate)
    would take long to get there with rates in [0, 1]: hence the gain on the level. A spike more or
    less then moves the level by more than actions differ by, but moves all values alike, so the
    best action stays the best one. (Populations of their own, or a gain on everything, were tried:
    in a fit of a trained Q function they picked the better action less often.)

    Args:
        neurons: P, >= 1.
        values: K, >= 1.
        gain: factor on the level, > 0.
    """

    # In bfloat16 a value of 100 would be off by 0.2; see policies.distributed.LayerAutocast.
    full_precision = True

    def __init__(self, neurons: int, values: int = 1, gain: float = 10.0) -> None:
        super().__init__()
        check_count("neurons", neurons)
        check_count("values", values)
        check_range("gain", gain, 0.0, open_low=True)
        self.gain = gain
        self.level = nn.Linear(neurons, 1)
        self.difference = nn.Linear(neurons, values)
        with torch.no_grad():
            # The first level is as large as without a gain.
            self.level.weight.div_(gain)
            self.level.bias.div_(gain)

    def forward(self, activity: Tensor) -> Tensor:
        """Values [B, K] of the activity [B, P].

        Raises:
            ValueError: if activity has another shape.
        """
        check_features("activity", activity, self.level.in_features)
        with without_autocast(activity.device):
            activity = activity.to(self.level.weight.dtype)
            values: Tensor = self.gain * self.level(activity) + self.difference(activity)
        return values


class ValueNetwork(PopulationBody):
    """Observations [B, obs_dim] -> values [B, values]: a population-coded network that judges.

    Encoder and hidden layers are those of PopulationActor; one population of
    `config.decoder.pop_size` neurons stands at the end for all values.

    Args:
        obs_dim: observation dimensions, >= 1.
        values: values to give, >= 1.
        config: everything else.
        gain: see ValueReadout.

    Raises:
        ValueError: if the config asks for what only populations of actions have.
    """

    def __init__(
        self,
        obs_dim: int,
        values: int,
        config: PopulationActorConfig | None = None,
        gain: float = 10.0,
    ) -> None:
        if config is not None and config.intra_layer:
            raise ValueError(
                "intra_layer=True connects the neurons of each action's population, and a value "
                "network has none: set intra_layer=False"
            )
        if config is not None and config.synops_penalty:
            raise ValueError(
                "synops_penalty is charged to actors, whose decisions cost energy: set it to 0 for "
                f"a value network, got {config.synops_penalty!r}"
            )
        super().__init__(obs_dim, 1, config)
        self.readout = ValueReadout(self.config.decoder.pop_size, values, gain)

    def forward(self, obs: Tensor, deterministic: bool = False) -> Tensor:
        """Judge a batch of observations; see PopulationBody.spikes."""
        values: Tensor = self.readout(super().forward(obs, deterministic))
        return values
