"""A whole gradient step of TD3: spiking actor and dense critics against SB3's dense policy."""

import copy

from stable_baselines3 import TD3
from torch import nn

import sb3_spiking
from benchmarks.speed import choices
from benchmarks.speed.actor import LOOP, OBS
from benchmarks.speed.choices import Choice
from benchmarks.speed.envs import ACTIONS, RandomControl
from benchmarks.speed.harness import Call, Options, race
from benchmarks.speed.popsan_loop import PopSANLoop
from benchmarks.speed.table import Goal, Section

DENSE = "SB3's dense TD3"
# Actors that are not PopSAN's, with the default arithmetic.
OTHERS: dict[str, dict[str, object]] = {
    "ours, counting": {"recipe": "counting"},
    "ours, batch normalization": {"batch_norm": True},
}
# Transitions in the buffer; batches are drawn with replacement.
FILL = 256
GOALS = {
    "float32": Goal(2.2, at_least=False),
    "exact": Goal(1.7, at_least=False),
    "bf16": Goal(1.4, at_least=False),
    None: Goal(2.2, at_least=False),
}


def trained(
    policy: str, arch: list[int] | None, choice: Choice | None = None, **more: object
) -> TD3:
    """A model with a filled buffer, before its first gradient step."""
    kwargs: dict[str, object] = {} if arch is None else {"net_arch": arch}
    if choice is not None:
        # PopSAN's actor, as the loop's; others have rows of their own.
        kwargs |= choice.kwargs(sb3_spiking.options.SpikingOptions) | {"recipe": "popsan", **more}
    model = TD3(
        policy,
        RandomControl(),
        buffer_size=FILL,
        learning_starts=FILL,
        policy_kwargs=kwargs,
        seed=0,
        device="cpu",
    )
    return model.learn(FILL)


def with_loop(arch: list[int] | None) -> TD3:
    """SB3's dense TD3 with the PopSAN-style loop as its actor's network."""
    model = trained("MlpPolicy", arch)
    loop = PopSANLoop(OBS, ACTIONS, arch if arch is not None else [400, 300])
    model.actor.mu = loop  # type: ignore[assignment]  # the same call as SB3's nn.Sequential
    model.actor_target.mu = copy.deepcopy(loop)  # type: ignore[assignment]  # as above
    kind = type(model.actor.optimizer)
    model.actor.optimizer = kind(nn.ModuleList([model.actor]).parameters(), lr=1e-4)  # type: ignore[call-arg]  # Adam
    return model


def steps(model: TD3, batch: int) -> Call:
    """Two gradient steps: the actor learns in every second one."""
    return lambda: model.train(2, batch)


def run(options: Options) -> list[Section]:
    """The table of this group."""
    section = Section(
        "TD3, one gradient step",
        f"time relative to {DENSE} of the same net_arch",
        direction="time",
        notes=["Mean of two steps, since the actor learns in every second one."],
    )
    spiking = list(choices.plain(sb3_spiking.options.SpikingOptions, backward=True))
    default = next(choice for choice in spiking if choice.matmul in ("exact", None))
    for name, arch in (("256-256", [256, 256]), ("default 400-300", None)):
        if options.quick and arch is None:
            continue
        models = {choice.label: trained("SpikingPopPolicy", arch, choice) for choice in spiking}
        models |= {LOOP: with_loop(arch), DENSE: trained("MlpPolicy", arch)}
        models |= {n: trained("SpikingPopPolicy", arch, default, **o) for n, o in OTHERS.items()}
        for batch in (8,) if options.quick else (100, 256):
            times = race({n: steps(m, batch) for n, m in models.items()}, options.repeats)
            column = f"{name}, batch {batch}"
            for choice in spiking:
                ms = times[choice.label] / 2
                section.add(choice.label, column, ms, times[DENSE] / 2, GOALS[choice.matmul])
            for other in (*OTHERS, LOOP):
                section.add(other, column, times[other] / 2, times[DENSE] / 2)
            section.add(DENSE, column, times[DENSE] / 2)
    return [section]
