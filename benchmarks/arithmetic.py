"""What the arithmetic of matmuls does to spikes and actions.

    python -m benchmarks.arithmetic [--weights popsan_halfcheetah.npz] [--rounds 40] [--steps 10000]

Actors: a fresh one, a published one where its file is at hand, one trained here with TD3. Two
tables:

1.  Against float64: currents are computed in float64 from the same weights and input spikes and
    rounded to float32 once. A flip is a spike that differs; "own weights" are the weights as the
    arithmetic holds them (23-bit integers, bfloat16), "true weights" those of the network.
2.  Against itself: batches of 256 on one thread, and the same observations in batches of 1, 5 and
    64 and on two threads.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import TD3
from torch import Tensor

import sb3_spiking
from policies.actor import PopulationActor
from policies.kernels.choice import Matmul
from policies.kernels.matmul import split
from policies.neurons import LIF, CurrentLIF
from policies.spiking_mlp import SpikeLinear
from sb3_spiking import load_popsan

SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "popsan_halfcheetah.npz"
MATMULS: tuple[Matmul, ...] = ("float32", "exact", "bf16")


class Float64Linear(SpikeLinear):
    """Currents rounded once, from float64."""

    def forward(self, spikes: Tensor) -> Tensor:
        """Currents of spikes."""
        total = spikes.double() @ self.weight.double().t()
        return total.float() + self.bias


class Recorder:
    """An actor with its action and all its spikes, sample by sample.

    Args:
        actor: copied.
        matmul: its arithmetic; "float64" for the reference.
        weights: hold the weights as this arithmetic does.
    """

    def __init__(self, actor: PopulationActor, matmul: str, weights: str = "float32") -> None:
        self.actor = copy.deepcopy(actor).eval()
        self.spikes: list[Tensor] = []
        mlp = self.actor.mlp
        for index, linear in enumerate(mlp.linears):
            assert isinstance(linear, SpikeLinear)
            with torch.no_grad():
                linear.weight.copy_(as_held(linear.weight, weights))
            if matmul == "float64":
                reference = Float64Linear(linear.in_features, linear.out_features)
                reference.weight, reference.bias = linear.weight, linear.bias
                mlp.linears[index] = reference
            else:
                linear.matmul = matmul  # type: ignore[assignment]  # the two others are ruled out
        for module in self.actor.modules():
            if isinstance(module, LIF | CurrentLIF):
                # A hook also keeps the modules from being replaced by one kernel.
                module.register_forward_hook(lambda _m, _a, out: self.spikes.append(out[0]))

    @torch.no_grad()
    def __call__(self, obs: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
        """Actions [B, A] and spikes [B, all neurons * T]."""
        actions, spikes = [], []
        for part in obs.split(batch):
            self.spikes.clear()
            actions.append(self.actor(part))
            spikes.append(torch.cat(self.spikes, dim=2).transpose(0, 1).flatten(1))
        return torch.cat(actions), torch.cat(spikes)


def as_held(weight: Tensor, matmul: str) -> Tensor:
    """Weights as an arithmetic rounds them."""
    if matmul == "bf16":
        return weight.bfloat16().float()
    if matmul == "exact":
        held = split(weight)
        return (held.integers(torch.float64) * held.scale.double()[:, None]).float()
    return weight


def trained(steps: int) -> tuple[PopulationActor, Tensor]:
    """An actor trained by TD3 on HalfCheetah-v4, and 2,560 observations of its last steps."""
    model = TD3(
        sb3_spiking.SpikingPopPolicy, "HalfCheetah-v4", learning_starts=1_000, seed=0,
        policy_kwargs={"recipe": "popsan"},
    )  # fmt: skip
    model.learn(steps)
    buffer: Any = model.replay_buffer
    obs = torch.from_numpy(buffer.observations[max(steps - 2_560, 0) : steps, 0]).float()
    assert isinstance(model.actor.mu, PopulationActor)
    return model.actor.mu, obs


def cases(weights: Path, rounds: int, steps: int) -> dict[str, tuple[PopulationActor, Tensor]]:
    """Actors and the observations to run them on."""
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(256 * rounds, 17, generator=generator)
    torch.manual_seed(0)
    found = {"fresh 256-256": (PopulationActor(17, 6), random)}
    if weights.is_file():
        model = load_popsan(weights, "HalfCheetah-v4", buffer_size=1, device="cpu")
        assert isinstance(model.actor.mu, PopulationActor)
        found["published"] = (model.actor.mu, random)
    if steps:
        found[f"trained {steps:,} steps"] = trained(steps)
    return found


def compare(ours: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> str:
    """Flips, samples with one, and the change of actions, as cells of a row."""
    action, spikes = ours
    other_action, other_spikes = reference
    differs = spikes != other_spikes
    change = (action - other_action).abs()
    clean = ~differs.any(dim=1)
    rest = float(change[clean].max()) if clean.any() else float("nan")
    return (
        f"{int(differs.sum())} / {differs.numel()} | {int((~clean).sum())} / {len(clean)} | "
        f"{float(change.max()):.1e} | {float(change.mean()):.1e} | {rest:.1e}"
    )


COLUMNS = "flips / spikes | samples with one | largest change of an action | mean | largest else"


def against_float64(name: str, actor: PopulationActor, obs: Tensor) -> None:
    """Print a row for each arithmetic and each kind of weights."""
    torch.set_num_threads(1)
    for matmul in MATMULS:
        ours = Recorder(actor, matmul)(obs)
        for label, weights in (("true", "float32"), ("own", matmul)):
            reference = Recorder(actor, "float64", weights)(obs)
            print(f"{name} | {matmul} | {label} | {compare(ours, reference)}", flush=True)


def against_itself(name: str, actor: PopulationActor, obs: Tensor) -> None:
    """Print a row for each arithmetic, thread count and batch size."""
    for matmul in MATMULS:
        record = Recorder(actor, matmul)
        torch.set_num_threads(1)
        reference = record(obs)
        for threads, batch in ((1, 1), (1, 5), (1, 64), (2, 256), (2, 64)):
            torch.set_num_threads(threads)
            cells = compare(record(obs, batch), reference)
            print(f"{name} | {matmul} | {threads} | {batch} | {cells}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=SHARED)
    parser.add_argument("--rounds", type=int, default=40, help="256 random observations each")
    parser.add_argument("--steps", type=int, default=10_000, help="of training; 0: no such actor")
    args = parser.parse_args()
    found = cases(args.weights, args.rounds, args.steps)
    print(f"actor | matmul | weights | {COLUMNS}")
    for name, (actor, obs) in found.items():
        against_float64(name, actor, obs)
    print(f"\nactor | matmul | threads | batch | {COLUMNS}")
    for name, (actor, obs) in found.items():
        against_itself(name, actor, obs)


if __name__ == "__main__":
    main()
