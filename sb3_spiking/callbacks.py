"""Watch a spiking policy while it trains: what its layers do, what it costs, what is wrong.

    model.learn(100_000, callback=SpikeMonitorCallback())

or in a hyperparameter file of RL Zoo, `callback: sb3_spiking.callbacks.SpikeMonitorCallback`.
Everything goes through the model's logger: TensorBoard, CSV, JSON and what reads them get it.
"""

import warnings
from importlib.util import find_spec

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat

from policies.config import check_count
from policies.energy import OperationCosts, costs_named, count_operations
from policies.monitor import NetworkActivity, diagnose, probe
from policies.monitor.doctor import Finding
from policies.monitor.raster import MAX_SAMPLES, draw, record
from sb3_spiking.acting import ActingNetwork, is_spiking
from sb3_spiking.observations import MetObservations
from sb3_spiking.policy_pass import PolicyPass

# A table for people: figures of single layers go to files only.
FILES_ONLY = ("stdout", "log")
TENSORBOARD_ONLY = ("stdout", "log", "json", "csv")
# Environment steps until the first look.
FIRST_LOOK = 100
# Steps of all environments together that lie between two looks at least.
LEAST_CALLS = 100
# Full intervals after which a fault that could pass by itself counts.
PATIENCE = 2


class SpikeFaultWarning(UserWarning):
    """A spiking network shows a fault; the text names it, the layer and the remedy."""


class SpikeMonitorCallback(BaseCallback):
    """Logs firing rates, operations, energy and faults of a spiking policy, from `spikes/...` on.

    Every `every` environment steps, and sooner at first, the policy's networks run once more: on
    observations of the last steps for what an action costs, and together with some from all of
    training for what is wrong (a layer that tells nothing apart while the agent stands still may be
    a sound one). That draws no random numbers and moves no statistics. Logged are

    *   `spikes/firing_rate` (mean over layers), `dead`, `saturated` (shares of hidden and output
        neurons), `coverage` (share of observed values inside the encoder's receptive fields),
        `gradient_flow` (least over layers: share of entries where the surrogate passes a gradient);
    *   `spikes/accumulates_per_action`, `multiply_accumulates_per_action`, `energy_nj_per_action`
        (counted, see policies.energy: arithmetic only) and `faults` (number of faults now);
    *   for each layer `firing_rate/LAYER`, `dead/...`, `saturated/...`, `gradient_flow/...`,
        `operations/...`, in files and TensorBoard; in TensorBoard also a histogram of the neurons'
        rates and, every `raster_every` steps, a picture of an episode's spikes (by matplotlib).

    A fault (see policies.monitor.doctor) is a `SpikeFaultWarning`, once for each kind and layer;
    one that may pass by itself counts when it has lasted for two times `every` steps.
    Dense policies are let pass in silence, so the callback may stand in files for both. A look that
    fails ends the watching, with a warning, and not the training.

    Args:
        every: environment steps between two looks, >= 1.
        samples: observations of the last steps in a look, >= 2; as many from all of training.
        raster_every: environment steps between two pictures, >= 1; 0: none.
        costs: name of the energy constants, see policies.energy.COSTS.
        warn: whether faults are warned of.
        verbose: as in Stable-Baselines3.

    Raises:
        ValueError: if a number is out of range or the costs are unknown.
    """

    def __init__(
        self,
        every: int = 2_000,
        samples: int = 128,
        raster_every: int = 20_000,
        costs: str = "45nm-float32",
        warn: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_count("every", every)
        check_count("samples", samples)
        if samples < 2:
            raise ValueError(f"samples must be at least 2, got {samples}: spread is measured")
        if raster_every:
            check_count("raster_every", raster_every)
        self.every = every
        self.samples = samples
        self.raster_every = raster_every
        self.costs: OperationCosts = costs_named(costs)
        self.warn = warn
        # (fault, layer) that have been warned of; since which step those of now are there
        self.warned: set[tuple[str, str]] = set()
        self._since: dict[tuple[str, str], int] = {}
        self.last: NetworkActivity | None = None
        self._watched: BaseAlgorithm | None = None
        self._watching = False
        self._start = self._next_look = self._next_raster = 0
        self._calls = self._next_call = 0

    def _on_training_start(self) -> None:
        self._watching = is_spiking(self.model.policy)
        # `learn` may be called again, and then goes on unless it resets the count of steps.
        if self._watched is not self.model or self.model.num_timesteps == 0:
            self._watched = self.model
            self._met = MetObservations(self.samples, self.every, MAX_SAMPLES)
            self._start = self.model.num_timesteps
            self._next_look = self._next_raster = self._start + min(FIRST_LOOK, self.every)
            self._calls = self._next_call = 0
            self._since = {}
            self.warned = set()
        if self._watching:
            self._judge(NetworkActivity(broken=_broken(self.model.policy)))

    def _on_step(self) -> bool:
        if not self._watching:
            return True
        self._met.take(self.model, self.locals)
        self._calls += 1
        due = self.num_timesteps >= self._next_look and self._calls >= self._next_call
        if due and len(self._met) >= 2:
            # Trouble comes early: the first looks are at 100, 200, 400, ... steps.
            since = self.num_timesteps - self._start
            self._next_look = self.num_timesteps + min(self.every, max(since, 1))
            # A step of many environments is many steps, but takes little longer than one of one.
            self._next_call = self._calls + min(LEAST_CALLS, self.every, self._calls)
            try:
                self._look()
            except (RuntimeError, ValueError) as error:
                # Out of memory, a policy of an unknown kind: no reason to lose the training.
                self._watching = False
                text = f"the spike monitor is off from step {self.num_timesteps} on: {error}"
                warnings.warn(text, stacklevel=2)
        return True

    def _look(self) -> None:
        policy = self.model.policy
        judging = PolicyPass(policy, critics=True)
        every = self._met.all_batch(policy)
        activity = probe(policy, lambda: judging(*every))
        self.last = activity
        self._judge(activity)
        if activity.broken or activity.failed:
            return
        self._record_activity(activity)
        self._record_operations()
        if self._draws():
            self._record_raster()

    def _record_activity(self, activity: NetworkActivity) -> None:
        layers = activity.layers
        neurons = sum(layer.counts.shape[1] for layer in layers)
        summary: dict[str, float] = {
            name: sum(getattr(layer, name) * layer.counts.shape[1] for layer in layers) / neurons
            for name in ("dead", "saturated")
        }
        flows = [layer.flow for layer in layers if layer.flow is not None]
        if flows:
            summary["gradient_flow"] = min(flows)
        if activity.encoders:
            summary["coverage"] = min(encoder.coverage for encoder in activity.encoders)
        for name, value in summary.items():
            self.logger.record(f"spikes/{name}", value)
        for layer in layers:
            self._record_layer("dead", layer.name, layer.dead)
            self._record_layer("saturated", layer.name, layer.saturated)
            if layer.flow is not None:
                self._record_layer("gradient_flow", layer.name, layer.flow)
            if self._has_tensorboard():
                key = f"spikes/rates/{layer.name}"
                self.logger.record(key, layer.rates.cpu(), exclude=TENSORBOARD_ONLY)

    def _record_layer(self, what: str, layer: str, value: float) -> None:
        self.logger.record(f"spikes/{what}/{layer}", value, exclude=FILES_ONLY)

    def _record_operations(self) -> None:
        policy = self.model.policy
        network = ActingNetwork(policy)
        obs, memory = self._met.batch(policy)
        count = count_operations(network, obs, *(memory or ()))
        names = {module: name for name, module in policy.named_modules()}
        # Layers are named as in the policy; ARS's network is a copy.
        known = {
            name: names.get(module, f"action_net.{name.removeprefix('body.')}")
            for name, module in network.named_modules()
        }
        rates = count.firing_rates
        for name, rate in rates.items():
            self._record_layer("firing_rate", known[name], rate)
        self.logger.record("spikes/firing_rate", sum(rates.values()) / max(len(rates), 1))
        self.logger.record("spikes/accumulates_per_action", count.accumulates)
        self.logger.record("spikes/multiply_accumulates_per_action", count.multiply_accumulates)
        self.logger.record("spikes/energy_nj_per_action", count.energy(self.costs).value)
        for name, layer in count.layers.items():
            operations = layer.accumulates + layer.multiply_accumulates
            if operations:
                self._record_layer("operations", known[name], operations)

    def _record_raster(self) -> None:
        policy = self.model.policy
        episode = self._met.episode(policy)
        if episode is None:
            return
        self._next_raster = self.num_timesteps + self.raster_every
        deciding = PolicyPass(policy)
        rasters = record(policy, lambda: deciding(*episode))
        if rasters:
            figure = draw(rasters, f"an episode's start, at step {self.num_timesteps}")
            picture = Figure(figure, close=True)
            self.logger.record("spikes/raster", picture, exclude=TENSORBOARD_ONLY)

    def _has_tensorboard(self) -> bool:
        return any(isinstance(f, TensorBoardOutputFormat) for f in self.logger.output_formats)

    def _draws(self) -> bool:
        """Whether a picture is due, and somebody can see it."""
        due = self.raster_every and self.num_timesteps >= self._next_raster
        # Stable-Baselines3 does not bring matplotlib along.
        return bool(due) and self._has_tensorboard() and find_spec("matplotlib") is not None

    def _judge(self, activity: NetworkActivity) -> None:
        findings = diagnose(activity)
        now = self.num_timesteps
        self._since = {_key(found): self._since.get(_key(found), now) for found in findings}
        lasts = PATIENCE * self.every
        faults = [f for f in findings if f.lasting or now - self._since[_key(f)] >= lasts]
        self.logger.record("spikes/faults", len(faults))
        for finding in faults:
            self._report(finding)

    def _report(self, finding: Finding) -> None:
        if _key(finding) in self.warned:
            return
        self.warned.add(_key(finding))
        if self.warn:
            text = f"step {self.num_timesteps}: {finding}"
            warnings.warn(SpikeFaultWarning(text), stacklevel=2)


def _key(finding: Finding) -> tuple[str, str]:
    return finding.fault, finding.layer


def _broken(policy: torch.nn.Module) -> tuple[str, ...]:
    tensors = policy.state_dict().items()
    return tuple(
        name for name, x in tensors if x.is_floating_point() and not bool(torch.isfinite(x).all())
    )
