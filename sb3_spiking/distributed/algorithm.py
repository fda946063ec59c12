"""Any gradient-based algorithm of Stable-Baselines3 on many ranks.

`distribute` gives a model a class that is derived from its own and wraps the parts of its loop:
rollouts end with an exchange of statistics, optimizers step by averaged gradients, steps are
counted over all ranks. What is saved is a file of the original algorithm.
"""

import atexit
import contextlib
import inspect
import secrets
from functools import cache
from pathlib import Path
from typing import Any, Self

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from policies.distributed import (
    Precision,
    broadcast_object,
    is_main,
    rank,
    share_statistics,
    world_size,
)
from policies.distributed.group import active, launched, start, stop
from policies.files import write_atomically
from sb3_spiking.distributed.agreement import (
    check_agreement,
    check_algorithm,
    check_loops,
    check_masked_loss,
    check_split,
)
from sb3_spiking.distributed.attributes import temporarily
from sb3_spiking.distributed.batch_renorm import share_batch_renorm
from sb3_spiking.distributed.callbacks import (
    AllRanksProgressBar,
    GlobalSteps,
    Together,
    for_this_rank,
)
from sb3_spiking.distributed.distribution import Distribution
from sb3_spiking.distributed.in_step import check_in_step

# Between the seeds of two ranks; each environment of a rank takes the next number.
RANK_SEEDS = 10_000


class DistributedAlgorithm(BaseAlgorithm):
    """Put before an algorithm's class; made by `distribute`.

    Derived from their base: Python lets an object change to classes of one layout only.
    """

    distribution: Distribution

    def train(self, *args: Any, **kwargs: Any) -> None:
        """As the algorithm's, by gradients of all ranks."""
        base: Any = super()
        shared = self.distribution
        if shared.parts > 1 and not shared.on_policy:
            given = _arguments(base.train, args, kwargs)
            # As many updates for each environment step as one process would make.
            given["gradient_steps"] *= shared.parts
            given["batch_size"] //= shared.parts
            args, kwargs = (), given
        with (
            shared.clock.measure("gradient"),
            temporarily(self, **shared.training_attributes(self)),
            shared.precision(self),
        ):
            base.train(*args, **kwargs)
        if not shared.compared and world_size() > 1:
            # Layers that go apart do so at once: not at the end of a long run.
            check_in_step(self)
            shared.compared = True

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        """As the algorithm's; then ranks exchange statistics, and whether one wants to stop."""
        base: Any = super()
        shared = self.distribution
        if shared.parts > 1 and shared.on_policy:
            given = _arguments(base.collect_rollouts, args, kwargs)
            given["rollout_buffer"] = shared.buffer
            given["n_rollout_steps"] //= shared.parts
            args, kwargs = (), given
        with shared.clock.measure("environment"):
            # PPO compares the probabilities of both: they must be computed alike.
            with shared.precision(self) if shared.on_policy else contextlib.nullcontext():
                result = base.collect_rollouts(*args, **kwargs)
            go_on = shared.exchange(not shared.stop())
            return go_on if shared.on_policy else result._replace(continue_training=go_on)

    def _on_step(self) -> None:
        """As the algorithm's; DQN counts environments to time its target network."""
        base: Any = super()
        if hasattr(self, "_n_calls"):
            with temporarily(self, n_envs=vars(self)["n_envs"] * world_size()):
                base._on_step()
        else:
            base._on_step()

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """As the algorithm's; `total_timesteps` are over all ranks.

        Raises:
            ValueError: if ranks would not train alike.
            RuntimeError: if their parameters are not the same at the end.
        """
        base: Any = super()
        shared = self.distribution
        shared.finished = False
        given = _arguments(base.learn, args, kwargs)
        if shared.resumed:
            # Stable-Baselines3 adds the steps that are done.
            given["total_timesteps"] = max(given["total_timesteps"] - self.num_timesteps, 0)
            given["reset_num_timesteps"] = False
        check_loops(self)
        check_agreement(self, total_timesteps=given["total_timesteps"])
        shared.begin(self)
        before = 0 if given["reset_num_timesteps"] else self.num_timesteps
        buffer = {} if shared.buffer is None else {"rollout_buffer": shared.buffer}
        with shared.clock.measure("total"), temporarily(self, **buffer):
            base.learn(**given)
        shared.steps_done += self.num_timesteps - before
        if world_size() > 1:
            check_in_step(self)
            # Or the next forward would wait for all ranks' statistics.
            self.policy.set_training_mode(False)
        shared.finished = True
        return self

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        base: Any = super()
        callbacks = [GlobalSteps(), *for_this_rank(callback)]
        if progress_bar and is_main():
            callbacks.append(AllRanksProgressBar())
        self.distribution.callbacks = Together(callbacks, self.distribution.clock)
        whole: BaseCallback = base._init_callback(self.distribution.callbacks, False)
        return whole

    def set_env(self, *args: Any, **kwargs: Any) -> None:
        """As the algorithm's; the new environments get this rank's seeds."""
        super().set_env(*args, **kwargs)
        if self.distribution.seed is not None and self.env is not None:
            self.env.seed(self.distribution.seed)

    def set_logger(self, logger: Logger) -> None:
        """As the algorithm's, on rank 0; the others log nowhere."""
        super().set_logger(logger if is_main() else Logger(folder=None, output_formats=[]))

    def save_replay_buffer(self, *args: Any, **kwargs: Any) -> None:
        """As the algorithm's, rank 0's; checkpoints of the command keep those of all ranks."""
        base: Any = super()
        if is_main():
            base.save_replay_buffer(*args, **kwargs)

    def save(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """As the algorithm's, on rank 0; nothing on the others, whose models are equal.

        A file is whole or as it was, also when the process is killed.
        """
        base: Any = super()
        if not is_main():
            return
        if not isinstance(path, str | Path):
            base.save(path, *args, **kwargs)
            return
        target = Path(path) if Path(path).suffix else Path(f"{path}.zip")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(str(target), lambda part: base.save(part, *args, **kwargs))

    def _excluded_save_params(self) -> list[str]:
        base: Any = super()
        return [*base._excluded_save_params(), "distribution"]

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        """A model of the original class: see `distribute`."""
        original: Any = cls.__mro__[2]
        return original.load(*args, **kwargs)


def _arguments(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call, by name."""
    bound = inspect.signature(method).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


@cache
def _distributed(algorithm: Any) -> type:
    """The class of an algorithm on many ranks."""
    return type(
        algorithm.__name__, (DistributedAlgorithm, algorithm), {"__doc__": algorithm.__doc__}
    )


def distribute(model: Any, *, split: bool = False, amp: Precision | None = None) -> Any:
    """Let a Stable-Baselines3 model, spiking or dense, train on all processes of torchrun.

        with policies.distributed.process_group():
            model = distribute(TD3("SpikingPopPolicy", "Pendulum-v1"))
            model.learn(100_000)
            model.save("td3_pendulum")  # an ordinary file: TD3.load("td3_pendulum")

        torchrun --nproc-per-node 2 script.py

    Every process runs the script; on CPUs the first line may be left out. Each rank has its own
    environments, seeds and replay buffer; gradients, observation and advantage statistics are those
    of all ranks' batches together, and the parameters are the same on all ranks at all times. Every
    count of environment steps (`total_timesteps`, `learning_starts`, schedules, logs) is over all
    ranks. `batch_size` and `n_steps` are each rank's, so N ranks with M environments train like one
    process with N * M environments and N times the batch; `split=True` shares out the batch. (With
    gradient_steps=-1 each rank counts its own steps: N ranks make an N-th of those updates.)

    Rank 0 logs, saves and runs EvalCallback, CheckpointCallback and the progress bar; other
    callbacks run on every rank, and training ends after the rollout in which one asks for it. In a
    single process the model trains as it would have, bit for bit.

    Args:
        model: any algorithm but ARS and TRPO, new or loaded; its class becomes one derived from it.
        split: each rank takes 1 / N of `batch_size` and of PPO's and A2C's `n_steps`, and an
            off-policy algorithm makes N times its gradient steps: as many updates by batches as
            large as in one process.
        amp: "bf16": layers run in bfloat16, parameters and optimizers stay float32.

    Returns:
        the model itself.

    Raises:
        TypeError: if the algorithm cannot be distributed.
        ValueError: if ranks disagree, batches cannot be split, the model is on a GPU but this
            process in no group yet, or amp is "fp16" (whose loss must be scaled, and these loops
            take no scaler: use DataParallel in a loop of your own).
    """
    check_algorithm(model)
    if amp not in (None, "bf16"):
        raise ValueError(
            f"amp must be None or 'bf16' here, got {amp!r}; 'fp16' needs a scaled loss, for which "
            "Stable-Baselines3's loops have no place"
        )
    if isinstance(model, DistributedAlgorithm):
        raise ValueError("model is distributed already; call distribute once, before learn")
    _join(model)
    check_loops(model)
    if split:
        check_split(model)
    check_agreement(model)
    seed = None
    if world_size() > 1:
        _take_state(model)
        share_batch_renorm(model.policy)
        share_statistics(model.policy)
        check_masked_loss(model)
        seed = _set_rank(model)
    shared = Distribution(model, split, amp, seed)
    original: Any = type(model)
    model.__class__ = _distributed(original)
    model.distribution = shared
    return model


def _join(model: Any) -> None:
    """Enter the group of a script that has not done so."""
    if active() or not launched():
        return
    if model.device.type != "cpu":
        raise ValueError(
            f"the model is on {model.device}, perhaps with those of other ranks: each rank takes "
            "its own GPU when it joins the group; put `with policies.distributed.process_group():` "
            "around the script, before the model is built"
        )
    start("gloo")
    atexit.register(stop)


def _take_state(model: Any) -> None:
    """Rank 0's parameters and optimizers, on every rank."""
    variables = {name: vars(model)[name] for name in model._get_torch_save_params()[1]}
    parameters, values = broadcast_object((model.get_parameters(), variables))
    if is_main():
        return
    model.set_parameters(parameters, exact_match=True, device=model.device)
    for name, variable in variables.items():
        if variable is not None:
            variable.data.copy_(values[name].data)


def _set_rank(model: Any) -> int | None:
    """Seeds apart, and silence on all ranks but 0; the seed, where it is not the model's."""
    # Fresh entropy: rank 0's own generators go on as they would.
    seed = broadcast_object(secrets.randbits(31) if model.seed is None else model.seed)
    if is_main():
        return None
    own: int = (seed + RANK_SEEDS * rank()) % 2**32
    model.set_random_seed(own)
    model.verbose = 0
    model.tensorboard_log = None
    if hasattr(model, "_logger"):
        model.set_logger(Logger(folder=None, output_formats=[]))
    return own
