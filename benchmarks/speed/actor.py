"""The actor alone, at HalfCheetah's sizes: forward, and forward with backward."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from benchmarks.speed import choices
from benchmarks.speed.choices import Choice
from benchmarks.speed.harness import Call, Options, race
from benchmarks.speed.matmuls import floors
from benchmarks.speed.peers import PEERS, agreement, dense_actor, missing
from benchmarks.speed.popsan_loop import STEPS, Coded, PopSANLoop
from benchmarks.speed.table import Goal, Section
from policies.actor import PopulationActor
from policies.config import PopulationActorConfig

OBS, ACTIONS = 17, 6
LOOP, DENSE = "PopSAN-style loop", "dense MLP"
# (outputs, inputs) of its linear layers.
LAYERS = ((256, OBS * 10), (256, 256), (ACTIONS * 10, 256))
# Forward and backward against the loop, batch 100 and 256, by (matmul, backward).
GOALS = {
    (None, None): Goal(1.9),
    ("float32", "auto"): Goal(1.9),
    ("exact", "bf16"): Goal(3.5),
    ("bf16", "auto"): Goal(5.0),
}
GOAL_BATCHES = (100, 256)


def make_ours(choice: Choice) -> PopulationActor:
    """Our actor; all choices have the same weights."""
    torch.manual_seed(0)
    config = PopulationActorConfig(normalize=False, **choice.kwargs())
    return PopulationActor(OBS, ACTIONS, config)


def rivals(device: str = "cpu") -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The other networks with our weights, and those that cannot run with the reason."""
    actor = make_ours(Choice())
    found: dict[str, nn.Module] = {LOOP: PopSANLoop(OBS, ACTIONS).share(actor)}
    left_out = {}
    for name, (_, build) in PEERS.items():
        if why := missing(name):
            left_out[name] = why
            continue
        found[name] = build(OBS, ACTIONS).share(actor)
    found[DENSE] = dense_actor(OBS, ACTIONS)
    return {name: module.to(device) for name, module in found.items()}, left_out


def forward(network: nn.Module, obs: Tensor) -> Call:
    """Actions of a batch, without gradients."""

    def call() -> None:
        with torch.no_grad():
            network(obs)

    return call


def training(network: nn.Module, obs: Tensor) -> Call:
    """Forward and backward of a batch, on weights that have changed since the last call.

    A step of an optimizer lies between two calls in training; what a network keeps of its weights
    (`matmul="exact"` keeps them split) is made anew. Here one weight of each layer changes sign.
    """
    parameters = list(network.parameters())
    with torch.no_grad():
        firsts = [parameter.view(-1)[:1] for parameter in parameters if parameter.dim() == 2]

    def call() -> None:
        for parameter in parameters:
            parameter.grad = None
        with torch.no_grad():
            torch._foreach_neg_(firsts)
        network(obs).square().mean().backward()

    return call


def goal_of(choice: Choice, batch: int, *, backward: bool) -> Goal | None:
    """The goal of one of our rows."""
    if not backward or batch not in GOAL_BATCHES or choice.kernel not in ("auto", None):
        return None
    return GOALS.get((choice.matmul, choice.backward))


def compare(
    title: str,
    batches: Iterable[int],
    ours: dict[Choice, PopulationActor],
    options: Options,
    *,
    backward: bool,
    device: str = "cpu",
) -> Section:
    """Times of all networks at several batch sizes, each against the loop."""
    section = Section(title, f"how many times faster than the {LOOP}")
    others, left_out = rivals(device)
    networks: dict[str, nn.Module] = {c.label: actor.to(device) for c, actor in ours.items()}
    by_label = {choice.label: choice for choice in ours}
    networks |= others
    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    make = training if backward else forward
    for batch in batches:
        obs = torch.randn(batch, OBS, generator=torch.Generator().manual_seed(1)).to(device)
        calls = {name: make(network, obs) for name, network in networks.items()}
        if backward and device == "cpu":
            alone = floors(batch * STEPS, LAYERS)
            calls |= {f"no network, matmuls alone, {name}": call for name, call in alone.items()}
        times = race(calls, options.repeats, finish)
        column = f"batch {batch:,}"
        for name, ms in times.items():
            choice = by_label.get(name)
            goal = None if choice is None else goal_of(choice, batch, backward=backward)
            section.add(name, column, ms, None if name == LOOP else times[LOOP], goal)
        for name, why in left_out.items():
            section.skip(name, column, why)
    return section


def spike_notes(device: str = "cpu") -> list[str]:
    """How the other libraries' spikes compare with ours on the same weights."""
    obs = torch.randn(256, OBS, generator=torch.Generator().manual_seed(1)).to(device)
    others, _ = rivals(device)
    with torch.no_grad():
        ours = make_ours(Choice()).to(device).spikes(obs)
        return [
            f"{(other.__doc__ or name).splitlines()[0]} {agreement(ours, other.spikes(obs))}."
            for name, other in others.items()
            if isinstance(other, Coded)
        ]


def selection(
    options: Options, device: str = "cpu", *, backward: bool
) -> dict[Choice, PopulationActor]:
    """Our actor in every choice; in quick runs in each matmul."""
    wanted = (
        choices.plain(backward=backward)
        if options.quick
        else choices.every(device, backward=backward)
    )
    return {choice: make_ours(choice) for choice in wanted}


def run(options: Options) -> list[Section]:
    """The two tables of this group."""
    batches = (1, 4) if options.quick else (1, 100, 256)
    sections = [
        compare(
            f"Actor, {name}",
            batches,
            selection(options, backward=backward),
            options,
            backward=backward,
        )
        for name, backward in (("forward", False), ("forward and backward", True))
    ]
    sections[1].notes.append("Weights change between calls, as an optimizer's would.")
    sections[1].notes += spike_notes()
    return sections
