"""RL Zoo with spiking policies: its own commands, arguments and hyperparameter files.

python -m sb3_spiking.zoo train --algo td3 --env Hopper-v4
python -m sb3_spiking.zoo enjoy --algo td3 --env Hopper-v4 -f logs --no-render

Where a file names a dense policy, its spiking counterpart takes the place; nothing else changes.
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
from rl_zoo3 import exp_manager

from sb3_spiking.zoo_search import add_search_space, read_policy_kwargs

SPIKING_NAMES = {
    "MlpPolicy": registry.SpikingPopPolicy,
    "LinearPolicy": registry.SpikingPopPolicy,
    "MultiInputPolicy": registry.SpikingPopMultiInputPolicy,
    "CnnPolicy": registry.SpikingPopCnnPolicy,
    "MlpLstmPolicy": registry.SpikingPopLstmPolicy,
    "MultiInputLstmPolicy": registry.SpikingPopMultiInputLstmPolicy,
    "CnnLstmPolicy": registry.SpikingPopCnnLstmPolicy,
}


def spiking_name(policy: str) -> str:
    """The spiking counterpart of a policy's name in a hyperparameter file.

    Raises:
        ValueError: if the name is not one of SB3's or ours.
    """
    name = policy.removeprefix("sb3_spiking.")
    if name in (*registry.FEED_FORWARD, *registry.RECURRENT):
        return name
    if name not in SPIKING_NAMES:
        raise ValueError(
            f"the hyperparameter file names the policy {policy!r}, which has no spiking "
            f"counterpart; known are {sorted(SPIKING_NAMES)}. Choose one with "
            "-params policy:\"'SpikingPopPolicy'\""
        )
    return SPIKING_NAMES[name]


class SpikingExperimentManager(exp_manager.ExperimentManager):
    """RL Zoo's manager of experiments; it builds spiking policies and records that it did."""

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """RL Zoo's hyperparameters, with the policy's name swapped in both results."""
        fixed = self._policy_kwargs_without_trial() if self.trial_id else None
        hyperparams, saved = super().read_hyperparameters()
        policy = spiking_name(hyperparams["policy"])
        print(f"Spiking policy: {policy} in place of {hyperparams['policy']}")
        for settings in (hyperparams, saved):
            settings["policy"] = policy
            if fixed is not None:
                settings["policy_kwargs"] = {**fixed, **settings.get("policy_kwargs", {})}
        return hyperparams, saved

    def _policy_kwargs_without_trial(self) -> dict[str, Any]:
        """What the file says: RL Zoo lets a study's policy_kwargs replace them."""
        trial_id, self.trial_id = self.trial_id, None
        with contextlib.redirect_stdout(io.StringIO()):
            hyperparams, _ = super().read_hyperparameters()
        self.trial_id = trial_id
        return read_policy_kwargs(hyperparams.get("policy_kwargs", {}))

    def hyperparameters_optimization(self) -> None:
        """RL Zoo's search, over spiking settings too."""
        add_search_space(self.algo, lambda: self._hyperparams.get("policy_kwargs", {}))
        super().hyperparameters_optimization()

    def load_trial(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """A trial's settings, the spiking ones in policy_kwargs."""
        add_search_space(self.algo, dict)
        return super().load_trial(*args, **kwargs)


def _enjoy() -> None:
    from rl_zoo3.enjoy import enjoy  # needs more packages than training does

    enjoy()


def main() -> None:
    """Run one of RL Zoo's commands."""
    commands: dict[str, Callable[[], None]] = {"train": rl_zoo3.train.train, "enjoy": _enjoy}
    parser = argparse.ArgumentParser(
        prog="python -m sb3_spiking.zoo",
        description="RL Zoo's commands and arguments, with spiking policies.",
        epilog="All further arguments are RL Zoo's: see `train --help` and `enjoy --help`.",
    )
    parser.add_argument("command", choices=sorted(commands))
    args = parser.parse_args(sys.argv[1:2])
    # RL Zoo's documented way to extend it: its script looks the class up here.
    vars(rl_zoo3.train)["ExperimentManager"] = SpikingExperimentManager
    # RL Zoo reads the process's arguments by itself.
    sys.argv = [f"{parser.prog} {args.command}", *sys.argv[2:]]
    commands[args.command]()


if __name__ == "__main__":
    main()
