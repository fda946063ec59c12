"""Offline learning on a D4RL-like file: spiking transformers beside d3rlpy's dense one.

    python -m benchmarks.offline_learning --algo dsformer-pssa --dataset FILE.npz --seed 0

Same width, layers, heads, context, batch, optimizer, schedule, steps and no dropout for every
algorithm; tokens, embedding and loss are its own. Every `--every` steps the mean return
of ten episodes and its D4RL-normalized score are printed. At the end the last checkpoint and the
best of those are scored anew, on 20 episodes from other seeds. All goes to `--out`.
"""

import argparse
import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import d3rlpy
import gymnasium
import numpy as np
import torch
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import AdamWFactory
from d3rlpy.preprocessing import MultiplyRewardScaler, StandardObservationScaler
from numpy.typing import NDArray

import d3rlpy_spiking
from d3rlpy_spiking.datasets import d4rl_score, load_npz

TARGETS = {"Hopper-v4": 3600.0, "HalfCheetah-v4": 12000.0, "Walker2d-v4": 5000.0}
ALGORITHMS = ("dsformer-pssa", "dsformer-tssa", "dsformer-sssa", "sdt", "dt")


def make_config(args: argparse.Namespace) -> Any:
    """The config of args.algo; everything but the blocks is the same."""
    common: dict[str, Any] = {
        "batch_size": 64,
        "learning_rate": args.learning_rate,
        "context_size": 20,
        "num_layers": 3,
        "num_heads": 1,
        "attn_dropout": 0.0,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "encoder_factory": VectorEncoderFactory([args.width], exclude_last_activation=True),
        "optim_factory": AdamWFactory(
            weight_decay=1e-4,
            clip_grad_norm=0.25,
            lr_scheduler_factory=d3rlpy_spiking.WarmupCosineFactory(
                warmup_steps=args.steps // 10, total_steps=args.steps
            ),
        ),
        "observation_scaler": StandardObservationScaler(),
        "reward_scaler": MultiplyRewardScaler(0.001),
    }
    if args.algo == "dt":
        return d3rlpy.algos.DecisionTransformerConfig(**common)
    spiking: dict[str, Any] = {
        "ptbn_steps": args.steps // 10,
        "normalization": args.normalization,
        "mask_statistics": args.mask_statistics,
    }
    if args.algo == "sdt":
        return d3rlpy_spiking.SpikingDecisionTransformerConfig(**common, **spiking)
    attention = args.algo.removeprefix("dsformer-")
    return d3rlpy_spiking.DSFormerConfig(**common, **spiking, attention=attention)


class Contexts:
    """The contexts of several episodes, padded and scaled as d3rlpy's stateful wrapper does it."""

    def __init__(self, algo: Any, target: float, episodes: int) -> None:
        config, impl = algo.config, algo.impl
        self.network = impl.modules.transformer
        self.config, self.episodes, self.length = config, episodes, config.context_size
        self.steps: deque[tuple[NDArray[Any], ...]] = deque(maxlen=self.length)
        self.last_action = np.zeros((episodes, impl.action_size), np.float32)
        self.rest = np.full(episodes, target)
        self.timestep = 0

    def act(self, obs: NDArray[Any], reward: NDArray[Any]) -> NDArray[Any]:
        """Actions [E, A] after observations [E, O] and the rewards [E] of the last step."""
        self.timestep = min(self.timestep + 1, self.config.max_timestep)
        self.rest = self.rest - reward
        if self.steps:
            last = self.steps.pop()
            self.steps.append((last[0], self.last_action, last[2], last[3]))
        zeros = np.zeros_like(self.last_action)
        # A copy: the caller may fill the same array with the next observations.
        self.steps.append((obs.copy(), zeros, self.rest, np.full(self.episodes, self.timestep)))
        observations, actions, returns, timesteps = (
            np.stack(part, axis=1) for part in zip(*self.steps, strict=True)
        )
        pad = self.length - len(self.steps)
        mask = np.ones((self.episodes, self.length), np.float32)
        mask[:, pad:] = 0.0
        x = torch.as_tensor(_left_pad(observations, pad), dtype=torch.float32)
        rtg = torch.as_tensor(_left_pad(returns[..., None], pad), dtype=torch.float32)
        out = self.network(
            self.config.observation_scaler.transform(x),
            torch.as_tensor(_left_pad(actions, pad), dtype=torch.float32),
            self.config.reward_scaler.transform(rtg),
            torch.as_tensor(_left_pad(timesteps, pad)).long(),
            torch.as_tensor(mask),
        )
        action: NDArray[Any] = out[:, -1].numpy()
        self.last_action = action
        return action


def _left_pad(x: NDArray[Any], pad: int) -> NDArray[Any]:
    return np.pad(x, [(0, 0), (pad, 0), *[(0, 0)] * (x.ndim - 2)])


@torch.no_grad()
def evaluate(algo: Any, env_id: str, episodes: int, seed: int) -> list[float]:
    """Returns of episodes that run side by side, each in an environment of its own."""
    algo.impl.modules.set_eval()
    envs = [gymnasium.make(env_id) for _ in range(episodes)]
    contexts = Contexts(algo, TARGETS[env_id], episodes)
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    reward, total, alive = np.zeros(episodes), np.zeros(episodes), np.ones(episodes, bool)
    while alive.any():
        actions = contexts.act(obs, reward)
        for i in np.flatnonzero(alive):
            obs[i], r, terminated, truncated, _ = envs[i].step(actions[i])
            reward[i], total[i] = float(r), total[i] + float(r)
            alive[i] = not (terminated or truncated)
    for env in envs:
        env.close()  # type: ignore[no-untyped-call]  # gymnasium's
    return [float(value) for value in total]


def main() -> None:
    """Train, evaluate and report one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", choices=ALGORITHMS, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--normalization", default="ptbn")
    parser.add_argument("--mask-statistics", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    args = parser.parse_args()
    print(json.dumps({k: str(v) for k, v in vars(args).items()}), flush=True)
    dataset = load_npz(args.dataset)
    env_id = str(np.load(args.dataset)["env_id"])
    d3rlpy.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  # d3rlpy draws its batches from it
    algo = make_config(args).create()
    algo.build_with_env(gymnasium.make(env_id))
    mask = "" if args.mask_statistics else "-unmasked"
    run = args.out / f"{args.algo}-{args.normalization}{mask}-{args.width}-{args.steps}-{args.seed}"
    run.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    start = time.perf_counter()

    def after_step(algo: Any, epoch: int, step: int) -> None:
        if step % args.every:
            return
        returns = evaluate(algo, env_id, args.episodes, seed=1000)
        mean = float(np.mean(returns))
        rows.append(
            {
                "step": step,
                "return": mean,
                "sd": float(np.std(returns)),
                "score": d4rl_score(env_id, mean),
                "seconds": time.perf_counter() - start,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        algo.save(str(run / f"{step}.d3"))
        write(run / "rows.json", rows)

    algo.fit(
        dataset,
        n_steps=args.steps,
        n_steps_per_epoch=args.every,
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
        callback=after_step,
    )
    best = max(rows, key=lambda row: row["score"])["step"]
    final: dict[str, Any] = {"seconds": time.perf_counter() - start}
    for name, step in (("last", args.steps), ("best", best)):
        scored = d3rlpy.load_learnable(str(run / f"{int(step)}.d3"))
        returns = evaluate(scored, env_id, 20, seed=2000)
        mean = float(np.mean(returns))
        final[name] = {
            "step": step,
            "return": mean,
            "sd": float(np.std(returns)),
            "score": d4rl_score(env_id, mean),
        }
    write(run / "final.json", final)
    print(json.dumps(final), flush=True)


def write(path: Path, content: Any) -> None:
    """A JSON file, whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
