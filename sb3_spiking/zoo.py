"""RL Zoo with spiking policies: its own commands, arguments and hyperparameter files.

python -m sb3_spiking.zoo train --algo td3 --env Hopper-v4
python -m sb3_spiking.zoo enjoy --algo td3 --env Hopper-v4 -f logs --no-render

Where a file names a dense policy, its spiking counterpart takes the place; nothing else changes.
Training is watched by a SpikeMonitorCallback; a `callback:` line in the file sets it.
`-optimize` searches the spiking settings together with RL Zoo's own.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from sb3_spiking import registry

if find_spec("rl_zoo3") is None:
    raise ImportError("sb3_spiking.zoo needs RL Zoo: pip install 'spiking-policies[zoo]'")

import rl_zoo3.train  # after the check
from rl_zoo3 import ALGOS, exp_manager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from policies.actor import PopulationBody
from sb3_spiking.callbacks import SpikeMonitorCallback
from sb3_spiking.zoo_search import add_search_space, read_policy_kwargs

_PACKAGE = "sb3_spiking."


def is_spiking_name(policy: str) -> bool:
    """Whether a policy's name in a hyperparameter file is one of ours."""
    return policy.removeprefix(_PACKAGE) in (*registry.FEED_FORWARD, *registry.RECURRENT)


def spiking_name(policy: str) -> str:
    """The spiking counterpart of a policy's name in a hyperparameter file.

    Raises:
        ValueError: if the name is not one of SB3's or ours.
    """
    name = policy.removeprefix(_PACKAGE)
    if is_spiking_name(name):
        return name
    if name not in registry.SPIKING_NAMES:
        raise ValueError(
            f"the hyperparameter file names the policy {policy!r}, which has no spiking "
            f"counterpart; known are {sorted(registry.SPIKING_NAMES)}. Choose one with "
            "-params policy:\"'SpikingPopPolicy'\""
        )
    return registry.SPIKING_NAMES[name]


class SpikingExperimentManager(exp_manager.ExperimentManager):
    """RL Zoo's manager of experiments; it builds spiking policies and records that it did."""

    # the trial's policy_kwargs, while settings are read with --trial-id
    _trial_kwargs: dict[str, Any] | None = None

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """RL Zoo's hyperparameters, with the policy's name swapped in both results."""
        loads_trial = self.storage and self.study_name and self.trial_id
        fixed = self._policy_kwargs_without_trial() if loads_trial else {}
        hyperparams, saved = super().read_hyperparameters()
        policy = spiking_name(hyperparams["policy"])
        if not self.continue_training:
            print(f"Spiking policy: {policy} in place of {hyperparams['policy']}")
        for settings in (hyperparams, saved):
            settings["policy"] = policy
            if self._trial_kwargs is not None:
                # RL Zoo lets one of the three replace the others.
                settings["policy_kwargs"] = {**fixed, **self._trial_kwargs, **self._typed_kwargs()}
        return hyperparams, saved

    def _typed_kwargs(self) -> dict[str, Any]:
        """policy_kwargs of the command line."""
        return read_policy_kwargs((self.custom_hyperparams or {}).get("policy_kwargs", {}))

    def _policy_kwargs_without_trial(self) -> dict[str, Any]:
        trial_id, self.trial_id = self.trial_id, None
        with contextlib.redirect_stdout(io.StringIO()):
            hyperparams, _ = super().read_hyperparameters()
        self.trial_id = trial_id
        return read_policy_kwargs(hyperparams.get("policy_kwargs", {}))

    def load_trial(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A trial's settings, the spiking ones in policy_kwargs."""
        add_search_space(self.algo, dict, dict)
        settings = super().load_trial(*args, **kwargs)
        self._trial_kwargs = settings.get("policy_kwargs", {})
        return settings

    def hyperparameters_optimization(self) -> None:
        """RL Zoo's search, over spiking settings too."""
        add_search_space(
            self.algo, lambda: self._hyperparams.get("policy_kwargs", {}), self._typed_kwargs
        )
        super().hyperparameters_optimization()

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        """As RL Zoo's. What VecNormalize rescales is not within the environment's bounds."""
        processed = super()._preprocess_hyperparams(hyperparams)
        settings = processed[0]
        kwargs = settings.get("policy_kwargs", {})
        if self.normalize and self.normalize_kwargs.get("norm_obs", True):
            policy_class: Any = ALGOS[self.algo].policy_aliases[settings["policy"]]
            # A name that the algorithm refuses has no defaults; building it will say why.
            defaults = getattr(policy_class, "default_options", {})
            if defaults.get("normalize_obs") == "bounds":
                settings["policy_kwargs"] = {"normalize_obs": False, **kwargs}
        return processed

    def create_callbacks(self) -> None:
        """RL Zoo's callbacks, and the spike monitor, unless the file names one."""
        super().create_callbacks()  # type: ignore[no-untyped-call]  # RL Zoo's has no types
        if not any(isinstance(callback, SpikeMonitorCallback) for callback in self.callbacks):
            self.callbacks.append(SpikeMonitorCallback())

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        """As RL Zoo's.

        Raises:
            ValueError: if the agent is a dense one.
        """
        model = super()._load_pretrained_agent(hyperparams, env)
        if not any(isinstance(module, PopulationBody) for module in model.policy.modules()):
            env.close()
            raise ValueError(
                f"{self.trained_agent} holds a dense policy, {type(model.policy).__name__}: "
                "continue it with `python -m rl_zoo3.train`, or train a spiking one without -i"
            )
        return model


def _enjoy() -> None:
    from rl_zoo3.enjoy import enjoy  # needs more packages than training does

    enjoy()


def main() -> None:
    """Run one of RL Zoo's commands."""
    commands: dict[str, Callable[[], None]] = {"train": rl_zoo3.train.train, "enjoy": _enjoy}
    parser = argparse.ArgumentParser(
        prog="python -m sb3_spiking.zoo",
        description="RL Zoo's commands and arguments, with spiking policies.",
        epilog=(
            "All further arguments are RL Zoo's, see `train --help` and `enjoy --help`; `train` "
            "has two more: --resume (writes checkpoints with the replay buffer, and goes on from "
            "the newest) and --dense (the policy that the file names, not its counterpart)."
        ),
    )
    parser.add_argument("command", choices=sorted(commands))
    args = parser.parse_args(sys.argv[1:2])
    if args.command == "train" and {"--resume", "--dense"} & set(sys.argv[2:]):
        from sb3_spiking.distributed.__main__ import main as train_with_checkpoints

        train_with_checkpoints(sys.argv[1:])
        return
    # RL Zoo's documented way to extend it: its script looks the class up here.
    vars(rl_zoo3.train)["ExperimentManager"] = SpikingExperimentManager
    # RL Zoo reads the process's arguments by itself.
    sys.argv = [f"{parser.prog} {args.command}", *sys.argv[2:]]
    commands[args.command]()


if __name__ == "__main__":
    main()
