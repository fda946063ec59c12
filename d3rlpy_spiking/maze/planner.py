"""A small learned planner as a d3rlpy encoder: a wave of spikes that runs from the goal.

    planes [B, 6, H, W] -> gates [4, B, H, W] -> `iterations` steps of one neuron a cell -> counts
        -> preferences [B, 4] at the agent's cell -> Linear -> features [B, feature_size]

Every cell has one leaky integrate-and-fire neuron. It is charged by the goal plane and by the
spikes of its four neighbours, each through a gate that the cell's plane of that direction sets:

    gate_a(cell) = sigmoid(gate_weight * plane_a(cell) + gate_bias)
    i_t(cell) = source * goal(cell) + charge * sum_a gate_a(cell) * spike_{t-1}(neighbour a)

A neuron that the wave has reached keeps firing, so its number of spikes says how near the goal is,
one spike a step. The preference for action a is gate_a * tanh(count(neighbour a) - count(cell)),
read at the agent's cell: the neighbour's count less the cell's own, not less a mean over actions.
So a gate need not be exact: the sign of a difference of counts survives it.

Told to the planner: where a cell's neighbours are, and which plane belongs to which direction.
Learned through the loss on actions: whether that plane means an opening or a wall, and how strongly
it acts. `gate_weight` starts at random around 0, of either sign, so that gates start near 1/2
whatever the planes. Cells, directions and iterations share the 4 numbers, hence mazes of any size.
(Gates with a weight for every plane learned as well from single observations, but inside a
transformer, which knows the actions before, some seeds settled on the wrong plane.)

The gradient is cut between iterations: a spike's surrogate derivative trains the gates it came
through, not the spikes before it. Backpropagation through the whole wave explodes (gradient norms
of 1e12 and more in 96 iterations). As in e-prop, what remains is local in space and time.

`spiking=False` replaces the step by the smooth step that the surrogate derivative belongs to: the
same parameters and arithmetic, graded activity.

Source: Tamar et al. 2016 (value iteration networks: planning inside a policy); Hwu et al. 2017
(a spiking wave front that plans paths on a grid); Bellec et al. 2020 (e-prop: the cut gradient).
The gates and the reading at the agent are ours.
"""

import dataclasses
from collections.abc import Sequence

import torch
from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
from d3rlpy.models.torch.encoders import Encoder, EncoderWithAction
from torch import Tensor, nn

from d3rlpy_spiking.maze.generate import MOVES
from d3rlpy_spiking.maze.observation import AGENT_PLANE, GOAL_PLANE, PASSAGE_PLANES, PLANES
from policies.checks import fault_mark
from policies.config import LIFConfig, check_count, check_range
from policies.functional import LIFState, init_lif_state, lif_step
from policies.surrogate import SpikeFn, Surrogate, tracing

# Initial values: std of the gates' wiring, and the range of the two charges in units of the
# threshold: a gate that is half open, as all are at first, lets the wave through, if barely.
_GATE_STD = 0.2
_CHARGE_RANGE = (2.0, 3.0)


def _neighbours(cells: Tensor) -> list[Tensor]:
    """The neighbour of every cell in each direction, [U, H, W] each; 0 beyond the border."""
    padded = nn.functional.pad(cells, (1, 1, 1, 1))
    height, width = cells.shape[-2:]
    return [
        padded[..., 1 + row : 1 + row + height, 1 + column : 1 + column + width]
        for row, column in MOVES
    ]


def _runs(x: Tensor) -> tuple[Tensor, Tensor]:
    """First sample of each run of samples that differ only in the agent, and every sample's run."""
    differs = (x[1:, :AGENT_PLANE] != x[:-1, :AGENT_PLANE]).flatten(1).any(dim=1)
    starts = torch.cat([torch.ones_like(differs[:1]), differs]) if len(x) > 1 else x.new_ones(1) > 0
    return x[starts], torch.cumsum(starts, dim=0) - 1


class WavefrontPlanner(nn.Module):
    """Preferences for the four actions at the agent's cell.

    Args:
        iterations: spike steps of the wave; cells farther from the goal than this see none of it.
        config: the neuron of a cell.
        spiking: False replaces spikes by the surrogate's smooth step.
        gain: the gates' two parameters are stored divided by this. Adam moves every parameter by
            about the learning rate a step, and these two have to move by about 4 while those of the
            network around them move by about 0.1.
        share: compute one wave for neighbouring samples of a batch that differ only in the agent,
            such as the steps of a trajectory; the result is the same. Not used in tracing.
    """

    def __init__(
        self, iterations: int, config: LIFConfig, *, spiking: bool, gain: float, share: bool
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.config = config
        self.spiking = spiking
        self.gain = gain
        self.share = share
        surrogate = Surrogate(config.surrogate, config.surrogate_width)
        self.spike_fn: SpikeFn = surrogate if spiking else surrogate.smooth
        low, high = (config.v_threshold * charge for charge in _CHARGE_RANGE)
        self.gate_weight = nn.Parameter(torch.randn(1) * _GATE_STD / gain)
        self.gate_bias = nn.Parameter(torch.zeros(1))
        self.charge = nn.Parameter(torch.empty(1).uniform_(low, high))
        self.source = nn.Parameter(torch.empty(1).uniform_(low, high))

    def _scaled(self, parameter: Tensor) -> Tensor:
        """Gain times the parameter; its gradient is that of the product, not gain times it.

        Adam's step does not depend on a gradient's scale, but clipping by the norm of all gradients
        does, and would shrink those of the network around the planner.
        """
        return parameter + ((self.gain - 1.0) * parameter).detach()

    def gates(self, x: Tensor) -> Tensor:
        """How open each direction of each cell is, in (0, 1): [U, 6, H, W] -> [4, U, H, W]."""
        weight, bias = self._scaled(self.gate_weight), self._scaled(self.gate_bias)
        return torch.sigmoid(weight * x[:, :PASSAGE_PLANES].transpose(0, 1) + bias)

    def wave(self, gates: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Run the wave.

        Args:
            gates: [4, U, H, W].
            goal: the goal plane, [U, H, W].

        Returns:
            spikes of every cell summed over the iterations, [U, H, W]; and a mark [U, 1, 1] that is
            NaN where a membrane is not finite, else 0.
        """
        inflows = (self.charge * gates).unbind(0)
        source = self.source * goal
        state = init_lif_state(goal)
        spikes = counts = torch.zeros_like(goal)
        for _ in range(self.iterations):
            i_in = source
            for inflow, neighbour in zip(inflows, _neighbours(spikes.detach()), strict=True):
                i_in = torch.addcmul(i_in, inflow, neighbour)
            spikes, state = lif_step(i_in, state, self.config, self.spike_fn)
            state = LIFState(state.v.detach())
            counts = counts + spikes
        return counts, fault_mark(state.v.flatten(1)).unsqueeze(-1)

    def _preference_planes(self, x: Tensor) -> Tensor:
        """Preferences of every cell, [4, U, H, W]."""
        gates = self.gates(x)
        counts, mark = self.wave(gates, x[:, GOAL_PLANE])
        return gates * torch.tanh(torch.stack(_neighbours(counts)) - counts) + mark

    def forward(self, x: Tensor) -> Tensor:
        """Observations [B, 6, H, W] -> preferences [B, 4], each in [-1, 1].

        Raises:
            ValueError: if x is not [B, 6, H, W].
        """
        if not tracing() and (x.dim() != 4 or x.shape[1] != PLANES):
            raise ValueError(
                f"observations must be [B, {PLANES}, H, W] as from d3rlpy_spiking.maze.observe, "
                f"got {tuple(x.shape)}"
            )
        agent = x[:, AGENT_PLANE]
        if self.share and not tracing() and not torch.compiler.is_compiling():
            x, run = _runs(x)
            planes = self._preference_planes(x)[:, run]
        else:
            planes = self._preference_planes(x)
        return (planes * agent).flatten(2).sum(dim=2).t()


class WavefrontEncoder(Encoder):
    """`WavefrontPlanner`, then Linear: observations [B, 6, H, W] -> features [B, feature_size]."""

    def __init__(self, planner: WavefrontPlanner, feature_size: int) -> None:
        super().__init__()
        self.planner = planner
        self.linear = nn.Linear(len(MOVES), feature_size)

    def forward(self, x: Tensor) -> Tensor:
        """Observations [B, 6, H, W] -> features [B, feature_size]."""
        features: Tensor = self.linear(self.planner(x))
        return features


class WavefrontEncoderWithAction(EncoderWithAction):
    """As `WavefrontEncoder`; the action joins the preferences: features [B, feature_size]."""

    def __init__(
        self, planner: WavefrontPlanner, feature_size: int, action_size: int, discrete: bool
    ) -> None:
        super().__init__()
        self.planner = planner
        self.action_size = action_size
        self.discrete = discrete
        self.linear = nn.Linear(len(MOVES) + action_size, feature_size)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """Observations [B, 6, H, W], actions [B, A] or indices [B, 1] -> [B, feature_size]."""
        if self.discrete:
            indices = action.reshape(-1).long()
            action = nn.functional.one_hot(indices, self.action_size).to(x.dtype)
        features: Tensor = self.linear(torch.cat([self.planner(x), action], dim=1))
        # Whether an action is good depends on the maze: a sum of the two would not do.
        return torch.relu(features)


@dataclasses.dataclass()
class WavefrontEncoderFactory(EncoderFactory):
    """Encoder of maze observations that plans with a wave of spikes; see this module.

    Args:
        feature_size: width of the features, for a transformer its width.
        iterations: spike steps of the wave, at least the longest shortest path in the mazes. In
            15 x 15 mazes without dead ends it was 85 in 100 mazes (99.9 % of distances below 74).
        spiking: False gives the dense counterpart, with as many parameters.
        v_decay: factor on a membrane a spike step, [0, 1].
        surrogate: shape of the surrogate derivative.
        surrogate_width: its width in units of the threshold 1.
        gain: the gates' parameters are stored divided by this, which multiplies their learning
            rate; 50 suits learning rates around 1e-3.
        share: one wave for neighbouring samples that differ only in the agent's place.
    """

    feature_size: int = 128
    iterations: int = 96
    spiking: bool = True
    v_decay: float = 0.5
    surrogate: str = "rectangle"
    surrogate_width: float = 1.0
    gain: float = 50.0
    share: bool = True

    def __post_init__(self) -> None:
        """Check every field."""
        check_count("feature_size", self.feature_size)
        check_count("iterations", self.iterations)
        check_range("gain", self.gain, 0.0, open_low=True)
        self._neuron()

    def create(self, observation_shape: Sequence[int]) -> WavefrontEncoder:
        """The encoder for observations [6, H, W]."""
        return WavefrontEncoder(self._planner(observation_shape), self.feature_size)

    def create_with_action(
        self, observation_shape: Sequence[int], action_size: int, discrete_action: bool = False
    ) -> WavefrontEncoderWithAction:
        """The encoder for observations [6, H, W] and an action."""
        return WavefrontEncoderWithAction(
            self._planner(observation_shape), self.feature_size, action_size, discrete_action
        )

    @staticmethod
    def get_type() -> str:
        """Name in saved configurations."""
        return "spiking_wavefront"

    def _neuron(self) -> LIFConfig:
        return LIFConfig(
            v_decay=self.v_decay,
            v_threshold=1.0,
            detach_reset=True,
            surrogate=self.surrogate,
            surrogate_width=self.surrogate_width,
        )

    def _planner(self, observation_shape: Sequence[int]) -> WavefrontPlanner:
        if len(observation_shape) != 3 or observation_shape[0] != PLANES:
            raise ValueError(
                f"observation_shape must be ({PLANES}, H, W), as of SpikingMaze-v0, "
                f"got {tuple(observation_shape)}"
            )
        return WavefrontPlanner(
            self.iterations, self._neuron(), spiking=self.spiking, gain=self.gain, share=self.share
        )


register_encoder_factory(WavefrontEncoderFactory)
