"""One action: the bare event-driven object, actors through torch, and SB3's `predict`."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import TD3
from torch import Tensor, nn

import sb3_spiking
from benchmarks.speed import choices
from benchmarks.speed.actor import DENSE, LOOP, OBS
from benchmarks.speed.choices import Choice
from benchmarks.speed.envs import ACTIONS, RandomControl
from benchmarks.speed.harness import Call, Options, Times, race
from benchmarks.speed.popsan_loop import PopSANLoop
from benchmarks.speed.table import Goal, Section
from policies.actor import PopulationActor

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "popsan_halfcheetah.npz"
BARE = "ours, event-driven object"
COLUMN = "one observation"


def spiking_model(choice: Choice, weights: Path) -> TD3:
    """A TD3 model with the published weights where they are at hand, else with fresh ones."""
    kwargs = choice.kwargs(sb3_spiking.options.SpikingOptions)
    if weights.is_file():
        return sb3_spiking.load_popsan(
            weights, RandomControl(), buffer_size=1, policy_kwargs=kwargs, device="cpu"
        )
    return TD3(
        "SpikingPopPolicy",
        RandomControl(),
        buffer_size=1,
        policy_kwargs={"net_arch": [256, 256], "recipe": "popsan", **kwargs},
        seed=0,
        device="cpu",
    )


def each(act: Callable[[Any], object], observations: Iterable[Any]) -> Call:
    """An action for the next observation, round and round."""
    stream = cycle(observations)
    return lambda: act(next(stream))


def through_torch(network: nn.Module) -> Callable[[Tensor], object]:
    """An action by a call of the network, [1, obs_dim] -> [1, action_dim]."""

    def act(obs: Tensor) -> None:
        with torch.no_grad():
            network(obs)

    return act


def through_sb3(model: TD3) -> Callable[[Any], object]:
    """An action by the model's `predict`, [obs_dim] -> [action_dim]."""
    return lambda obs: model.predict(obs, deterministic=True)


def bare_objects(models: dict[Choice, TD3]) -> dict[str, Any]:
    """The event-driven objects, where the policy offers them."""
    found = {}
    for choice, model in models.items():
        make = getattr(model.policy, "to_event_driven", None)
        if make is None or find_spec("numba") is None:
            return {}
        found[BARE if choice.matmul is None else f"{BARE}, {choice.matmul}"] = make()
    return found


def run(options: Options) -> list[Section]:
    """The tables of this group."""
    # Not one alone: a processor learns which neurons fire, as it could not in use.
    tensors = torch.randn(64, 1, OBS, generator=torch.Generator().manual_seed(1)).unbind()
    arrays = [obs[0].double().numpy() for obs in tensors]
    spiking = {
        choice: spiking_model(choice, WEIGHTS)
        for choice in choices.plain(sb3_spiking.options.SpikingOptions)
    }
    dense = TD3(
        "MlpPolicy",
        RandomControl(),
        buffer_size=1,
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
        device="cpu",
    )
    first = next(iter(spiking.values())).actor.mu
    assert isinstance(first, PopulationActor)
    for model in (*spiking.values(), dense):
        model.policy.set_training_mode(False)
    calls = {name: each(bare.predict, arrays) for name, bare in bare_objects(spiking).items()}
    for choice, model in spiking.items():
        calls[f"{choice.label}, actor through torch"] = each(through_torch(model.actor), tensors)
        calls[f"{choice.label}, model.predict"] = each(through_sb3(model), arrays)
    loop = PopSANLoop(OBS, ACTIONS).share(first)
    calls |= {
        LOOP: each(through_torch(loop), tensors),
        DENSE: each(through_torch(dense.actor), tensors),
    }
    calls["SB3's dense, model.predict"] = each(through_sb3(dense), arrays)
    times = race(calls, options.repeats * 5)
    weights = "the published HalfCheetah weights" if WEIGHTS.is_file() else "fresh weights"
    return [actors(times, weights), predicts(times)]


def actors(times: dict[str, Times], weights: str) -> Section:
    """Bare object and actors, against the dense actor and the loop."""
    section = Section(
        "One action",
        f"how many times faster than the {DENSE} through torch (first column), than the {LOOP} "
        "(second)",
        notes=[f"Spiking networks have {weights}."],
    )
    against_dense, against_loop = f"against the {DENSE}", f"against the {LOOP}"
    if not any(name.startswith(BARE) for name in times):
        section.skip(BARE, against_dense, "needs numba (pip install spiking-policies[fast])")
    for name, ms in times.items():
        if "predict" in name:
            continue
        bare = name.startswith(BARE)
        section.add(name, against_dense, ms, times[DENSE], Goal(1.0) if bare else None)
        section.add(name, against_loop, ms, times[LOOP], Goal(40.0) if bare else None)
    return section


def predicts(times: dict[str, Times]) -> Section:
    """`model.predict`, spiking against dense."""
    dense = "SB3's dense, model.predict"
    section = Section(
        "model.predict of one observation", "time relative to SB3's dense", direction="time"
    )
    for name, ms in times.items():
        if "predict" in name:
            ours = name != dense
            goal = Goal(1.1, at_least=False) if ours else None
            section.add(name, COLUMN, ms, times[dense] if ours else None, goal)
    return section
