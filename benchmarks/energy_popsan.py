"""PopSAN's published actor beside the dense actor of its size; see benchmarks.energy."""

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import TD3
from torch import Tensor, nn

from benchmarks.energy import layer_table, number, table
from policies.actor import PopulationActor
from policies.energy import OperationCount, count_operations
from policies.energy.break_even import BreakEven, break_even
from policies.energy.metrics import neurobench_metrics
from sb3_spiking import load_popsan


def report(args: argparse.Namespace) -> str:
    """Everything about the actor, as Markdown."""
    model = load_popsan(args.weights, args.env, buffer_size=1, device="cpu")
    actor = model.actor.mu
    assert isinstance(actor, PopulationActor)
    layers = [layer.out_features for layer in actor.mlp.layers()[:-1]]
    twin = TD3("MlpPolicy", args.env, policy_kwargs={"net_arch": layers}, buffer_size=1, seed=0)
    parts = [
        f"# {args.weights.name}: operations of one action\n\n"
        "Counted: products of an input and a weight that are both not 0; accumulates where the "
        "input is spikes. Dense: all products at every spike step, zeros included. Left out: "
        "biases, neurons' updates, the encoder's exponential and integrator, the tanh, all memory."
    ]
    for title, network, obs in _inputs(args, model, actor):
        dense = count_operations(twin.actor.mu, obs)
        parts.append(f"## {title}, {len(obs)} observations")
        parts += _compare(count_operations(network, obs), dense, network, obs)
    return "\n\n".join(parts)


def _inputs(
    args: argparse.Namespace, model: TD3, actor: PopulationActor
) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """A title, the network to run, and its observations."""
    if args.weights.suffix == ".npz":
        with np.load(args.weights, allow_pickle=False) as file:
            obs = file["traj_obs"] if "traj_obs" in file.files else None
        if obs is not None:
            bare = copy.deepcopy(actor)
            bare.normalizer = None  # these are normalized already
            yield "The file's own trajectory", bare, torch.from_numpy(obs)
    met, total = play(model, args.steps, args.seed)
    title = f"{args.env} played here, seed {args.seed}, return {total:,.1f}"
    yield title, actor, torch.from_numpy(met)


def play(model: TD3, steps: int, seed: int) -> tuple[NDArray[np.float32], float]:
    """Observations that the policy meets, [N, obs_dim], at most one episode; and the return."""
    env = model.get_env()
    assert env is not None
    env.seed(seed)
    obs = env.reset()
    seen, total = [], 0.0
    for _ in range(steps):
        assert isinstance(obs, np.ndarray)
        seen.append(obs[0].copy())
        action, _ = model.predict(obs, deterministic=True)
        obs, reward, done, _ = env.step(action)
        total += float(reward[0])
        if done[0]:
            break
    return np.asarray(seen, dtype=np.float32), total


def _compare(
    spiking: OperationCount, dense: OperationCount, network: nn.Module, obs: Tensor
) -> list[str]:
    linear = sum(layer.accumulates for layer in spiking.layers.values() if layer.kind == "linear")
    slots = sum(layer.dense for layer in spiking.layers.values() if layer.kind == "linear")
    bare, charged = (break_even(spiking, dense, coding=coding) for coding in (False, True))
    rows = [
        ("linear layers, accumulates", number(linear), ""),
        ("the same, dense", number(slots), number(dense.dense)),
        ("encoder, multiply-accumulates", _products(spiking, "encoder"), ""),
        ("decoder, multiply-accumulates", _products(spiking, "decoder"), ""),
        ("energy, linear layers, nJ", number(bare.spiking.value, 1), number(bare.dense.value, 1)),
        ("energy, coding charged, nJ", number(charged.spiking.value, 1), ""),
    ]
    operations = neurobench_metrics(network, obs)["SynapticOperations"]
    named = ", ".join(f"{name} {number(value)}" for name, value in operations.items())
    uncounted = [f"Not counted: {', '.join(spiking.uncounted)}."] if spiking.uncounted else []
    return [
        layer_table(spiking),
        table(("an action", "spiking", "dense actor"), rows),
        f"NeuroBench's synaptic operations of the spiking actor: {named}.",
        *uncounted,
        f"Energy: {bare.spiking.method}. The dense actor's products all count: it is not trained, "
        "so its zeros mean nothing.",
        _verdict(bare, "Encoder and decoder left out"),
        _verdict(charged, "Encoder and decoder charged"),
        f"{bare.caveat.text} Source: {bare.caveat.source}.",
    ]


def _products(count: OperationCount, kind: str) -> str:
    found = (layer for layer in count.layers.values() if layer.kind == kind)
    return number(sum(layer.multiply_accumulates for layer in found), 1)


def _verdict(found: BreakEven, what: str) -> str:
    return f"{what}: {found.text}"
