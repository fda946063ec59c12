"""Spike flips of one sample between batch sizes and thread counts, float32 matmul.

    python -m benchmarks.batch_independence [--weights popsan_halfcheetah.npz] [--rounds 40]

Each round draws 256 observations; batches of 256 on one thread are the reference. A flip is a spike
that differs; actions are compared where no spike of the sample flipped.
"""

import argparse
from pathlib import Path

import torch

from policies.actor import PopulationActor
from policies.neurons import LIF, CurrentLIF
from sb3_spiking import load_popsan

SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "popsan_halfcheetah.npz"


class Recorder:
    """An actor with its action and all its spikes, sample by sample."""

    def __init__(self, actor: PopulationActor) -> None:
        self.actor = actor.eval()
        self.spikes: list[torch.Tensor] = []
        for module in actor.modules():
            if isinstance(module, LIF | CurrentLIF):
                module.register_forward_hook(lambda _m, _a, out: self.spikes.append(out[0]))

    @torch.no_grad()
    def __call__(self, obs: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions [B, A] and spikes [B, all neurons * T]."""
        actions, spikes = [], []
        for part in obs.split(batch):
            self.spikes.clear()
            actions.append(self.actor(part))
            spikes.append(torch.cat(self.spikes, dim=2).transpose(0, 1).flatten(1))
        return torch.cat(actions), torch.cat(spikes)


def actors(weights: Path) -> dict[str, PopulationActor]:
    """The published actor, where its file is at hand, and a fresh one of SB3's default size."""
    torch.manual_seed(0)
    fresh = PopulationActor(17, 6)
    found = {"fresh 256-256": fresh}
    if weights.is_file():
        model = load_popsan(weights, "HalfCheetah-v4", buffer_size=1, device="cpu")
        assert isinstance(model.actor.mu, PopulationActor)
        found["published"] = model.actor.mu
    return found


def main() -> None:
    """Print one row for each actor, thread count and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=SHARED)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    print(
        "actor | threads | batch | flips / spikes | samples with a flip | largest difference else"
    )
    for name, actor in actors(args.weights).items():
        record = Recorder(actor)
        generator = torch.Generator().manual_seed(1)
        rounds = [torch.randn(256, 17, generator=generator) for _ in range(args.rounds)]
        torch.set_num_threads(1)
        reference = [record(obs, 256) for obs in rounds]
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for batch in (1, 5, 64, 256):
                flips = total = samples = 0
                worst = 0.0
                for obs, (action, spikes) in zip(rounds, reference, strict=True):
                    other_action, other_spikes = record(obs, batch)
                    differs = other_spikes != spikes
                    flips += int(differs.sum())
                    total += differs.numel()
                    clean = ~differs.any(dim=1)
                    samples += int((~clean).sum())
                    worst = max(worst, float((other_action - action)[clean].abs().max()))
                row = f"{name} | {threads} | {batch} | {flips} / {total} | {samples} | {worst:.1e}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
