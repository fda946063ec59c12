"""The spiking part of RL Zoo's hyperparameter search."""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3 import exp_manager, hyperparams_opt

from sb3_spiking.options import from_recipe

# In a trial the spiking settings carry this prefix; it keeps them apart from RL Zoo's own.
PREFIX = "spiking_"

VALUE_BASED = ("dqn", "qrdqn")
NO_EFFECT = {
    # one population for all values
    **dict.fromkeys(VALUE_BASED, ("decoder_pop_size",)),
    # moves the actor without its optimizer
    "trpo": ("actor_lr_scale",),
    # takes no gradients at all
    "ars": ("actor_lr_scale", "surrogate_width"),
}

Sampler = Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]]
Converter = Callable[[dict[str, Any]], dict[str, Any]]
# RL Zoo's own, kept when the table is changed.
_ORIGINAL: dict[str, tuple[Sampler, Converter]] = {}


def suggest(trial: optuna.Trial, algo: str, fixed: dict[str, Any]) -> dict[str, Any]:
    """Spiking settings for a trial; what is fixed or has no effect is not searched."""
    ranges: dict[str, Callable[[str], Any]] = {
        "spike_steps": lambda name: trial.suggest_int(name, 2, 10),
        "encoder_pop_size": lambda name: trial.suggest_int(name, 5, 20),
        "decoder_pop_size": lambda name: trial.suggest_int(name, 5, 20),
        "value_pop_size": lambda name: trial.suggest_int(name, 32, 256, log=True),
        "v_decay": lambda name: trial.suggest_float(name, 0.3, 1.0),
        "i_decay": lambda name: trial.suggest_float(name, 0.0, 0.9),
        "surrogate_width": lambda name: trial.suggest_float(name, 0.25, 4.0, log=True),
        "actor_lr_scale": lambda name: trial.suggest_float(name, 0.1, 1.0, log=True),
    }
    without_effect = {*NO_EFFECT.get(algo, ())}
    if algo not in VALUE_BASED and not fixed.get("spiking_critic", False):
        without_effect.add("value_pop_size")
    if from_recipe(dict(fixed)).get("neuron") == "lif":
        without_effect.add("i_decay")
    return {
        name: sample(PREFIX + name)
        for name, sample in ranges.items()
        if name not in fixed and name not in without_effect
    }


def add_search_space(
    algo: str, fixed: Callable[[], dict[str, Any]], typed: Callable[[], dict[str, Any]]
) -> None:
    """Widen RL Zoo's search for an algorithm by the spiking settings.

    Args:
        algo: RL Zoo's name of the algorithm.
        fixed: gives the policy_kwargs of file and command line. Spiking ones are kept; of the
            others RL Zoo's search replaces what it covers, the sizes of layers.
        typed: gives the policy_kwargs of the command line, which are kept all.
    """
    sampler, converter = _originals(algo)

    def sample(
        trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
    ) -> dict[str, Any]:
        own = suggest(trial, algo, fixed())
        theirs = sampler(trial, n_actions, n_envs, additional_args)
        kwargs = {**fixed(), **theirs.get("policy_kwargs", {}), **own, **typed()}
        return {**theirs, "policy_kwargs": kwargs}

    def convert(params: dict[str, Any]) -> dict[str, Any]:
        own = {k.removeprefix(PREFIX): v for k, v in params.items() if k.startswith(PREFIX)}
        theirs = converter({k: v for k, v in params.items() if not k.startswith(PREFIX)})
        if theirs.get("noise_type", "") is None:
            # A trial without noise; RL Zoo would hand both names to the algorithm.
            del theirs["noise_type"], theirs["noise_std"]
        return {**theirs, "policy_kwargs": {**theirs.get("policy_kwargs", {}), **own}}

    # The manager holds the same two tables.
    hyperparams_opt.HYPERPARAMS_SAMPLER.update({algo: sample})
    converters: dict[str, Any] = hyperparams_opt.HYPERPARAMS_CONVERTER
    converters[algo] = convert


def _originals(algo: str) -> tuple[Sampler, Converter]:
    if algo not in _ORIGINAL:
        # RL Zoo searches every algorithm but CrossQ.
        sampler: Any = hyperparams_opt.HYPERPARAMS_SAMPLER.get(algo, _sample_crossq)
        converters: dict[str, Any] = hyperparams_opt.HYPERPARAMS_CONVERTER
        converter = converters.get(algo, hyperparams_opt.convert_offpolicy_params)
        _ORIGINAL[algo] = (sampler, converter)
    return _ORIGINAL[algo]


def _sample_crossq(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """As RL Zoo searches SAC, without target networks and with CrossQ's policy delay."""
    params = {
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 5, 10),
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 2e-3, log=True),
        "policy_delay": trial.suggest_int("policy_delay", 1, 4),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium", "big"]),
    }
    return hyperparams_opt.convert_offpolicy_params(params)


def read_policy_kwargs(kwargs: dict[str, Any] | str) -> dict[str, Any]:
    """policy_kwargs of a hyperparameter file, where they may be Python code."""
    if isinstance(kwargs, str):
        # As RL Zoo reads its files, with its names (nn, RMSpropTFLike).
        evaluated: dict[str, Any] = eval(kwargs, vars(exp_manager))
        return evaluated
    return kwargs
