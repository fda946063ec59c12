"""What two ranks find out about d3rlpy's algorithms; both run each function at the same time."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import IQLConfig, TD3PlusBCConfig
from d3rlpy.torch_utility import TorchTrajectoryMiniBatch
from torch import Tensor, nn

from d3rlpy_spiking import distribute, impl
from d3rlpy_spiking.encoders import PopulationSpikingEncoderFactory
from policies.distributed import broadcast_object, gather_objects, is_main, rank
from policies.fused_transformer import runs_fused
from policies.kernels.choice import has_numba
from policies.normalization import TdBN
from tests.d3rlpy_spiking.common import (
    ACTIONS,
    LENGTH,
    is_discrete,
    make_config,
    make_context,
    make_dataset,
    train,
)

Errors = dict[str, float]
# Tokens that exist in each row; the first rows are rank 0's.
TOKENS = {0: [6, 6, 5, 6, 4, 6], 1: [1, 2, 6, 1, 3, 1]}
# What would make ranks differ by more than rounding, or at random.
PLAIN: dict[str, Any] = {
    "attn_dropout": 0.0,
    "resid_dropout": 0.0,
    "embed_dropout": 0.0,
    "kernel": "torch",
}
DENSE: dict[str, Any] = {
    "decision_transformer": d3rlpy.algos.DecisionTransformerConfig,
    "discrete_decision_transformer": d3rlpy.algos.DiscreteDecisionTransformerConfig,
    "dense_tacr": d3rlpy.algos.TACRConfig,
}


def make(name: str, enable_ddp: bool = True, **changes: Any) -> Any:
    """A built algorithm with the same weights on every rank."""
    d3rlpy.seed(0)
    if name in DENSE:
        sizes = {"context_size": LENGTH, "max_timestep": 60, "num_layers": 1, "batch_size": 8}
        heads = {"num_heads": 1} if name.startswith("discrete") else {}
        algo = DENSE[name](**sizes, **heads, **changes).create()
    else:
        algo = make_config(name, **changes).create(enable_ddp=enable_ddp)
    algo.create_impl((5,), ACTIONS["discrete" if is_discrete(algo) else "continuous"])
    return distribute(algo) if enable_ddp and name in DENSE else algo


def batch_of(rows: list[int], seed: int, discrete: bool) -> TorchTrajectoryMiniBatch:
    """A batch whose row i has rows[i] tokens, after padding, as d3rlpy makes it."""
    rng = torch.Generator().manual_seed(seed)
    masks = (torch.arange(LENGTH) >= LENGTH - torch.tensor(rows)[:, None]).float()
    shape = masks.shape

    def real(width: int) -> Tensor:
        return torch.randn(*shape, width, generator=rng) * masks[..., None]

    actions = torch.randint(0, ACTIONS["discrete"], (*shape, 1), generator=rng).float()
    return TorchTrajectoryMiniBatch(
        observations=real(5),
        actions=actions * masks[..., None] if discrete else real(ACTIONS["continuous"]).tanh(),
        rewards=real(1),
        returns_to_go=real(1),
        terminals=torch.zeros(*shape, 1),
        timesteps=(masks.cumsum(1) * masks).long(),
        masks=masks,
        device="cpu",
    )


def joined(batches: list[TorchTrajectoryMiniBatch]) -> TorchTrajectoryMiniBatch:
    """One batch of the rows of several."""
    names = ("observations", "actions", "rewards", "returns_to_go", "terminals", "timesteps")
    parts = {n: torch.cat([getattr(b, n) for b in batches]) for n in (*names, "masks")}
    return TorchTrajectoryMiniBatch(**parts, device="cpu")


def gradient_of(algo: Any, batch: TorchTrajectoryMiniBatch) -> dict[str, Tensor]:
    """The gradients that the optimizer would be given."""
    algo.impl.modules.set_train()
    if hasattr(algo.impl, "compute_grad"):
        algo.impl.compute_grad(batch)
    else:
        algo.impl.compute_actor_grad(batch)
    return {n: p.grad.clone() for n, p in algo.impl.network.named_parameters()}


def distance(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> Errors:
    """Norm of the difference over the norm: of all tensors together, and of the worst one.

    Biases before a batch norm have no gradient but rounding. Tensors that have less than a ten
    thousandth of the whole norm are compared with the whole, as "small".
    """

    def norm(x: dict[str, Tensor]) -> float:
        return float(torch.cat([part.double().flatten() for part in x.values()]).norm())

    whole = norm(reference)
    difference = {name: ours[name].double() - reference[name].double() for name in reference}
    out = {"all": norm(difference) / whole, "worst": 0.0, "small": 0.0}
    for name, part in reference.items():
        kind = "worst" if norm({name: part}) > 1e-4 * whole else "small"
        scale = norm({name: part}) if kind == "worst" else whole
        out[kind] = max(out[kind], norm({name: difference[name]}) / scale)
    return out


@contextlib.contextmanager
def not_averaged() -> Iterator[None]:
    """Training without the average of gradients."""
    with patch.object(impl, "average_gradients", lambda parameters: None):
        yield


def gradients(name: str, theta_steps: int, **changes: Any) -> dict[str, Errors]:
    """Gradients of two ranks against those of one process with both batches.

    Args:
        name: algorithm.
        theta_steps: gradient steps done; theta is 1 - theta_steps / 4.
        changes: of its config.
    """

    def start(enable_ddp: bool) -> Any:
        algo = make(name, enable_ddp, **{**PLAIN, "ptbn_steps": 4, **changes})
        algo.impl.progress.set_step(theta_steps)
        return algo

    alone = start(False)
    batches = [batch_of(rows, seed, is_discrete(alone)) for seed, rows in TOKENS.items()]
    reference = gradient_of(alone, joined(batches))
    mine = batches[rank()]
    algo = start(True)
    algo.impl.modules.set_train()
    backbone = algo.impl.network.backbone.transformer
    tokens = torch.zeros(6, LENGTH, backbone.config.width)
    assert runs_fused(backbone, tokens, 0.5) == (has_numba() and changes.get("kernel") == "auto")
    found = {"equal": distance(gradient_of(algo, mine), reference)}
    found["running statistics"] = distance(*(_statistics(x) for x in (algo, alone)))
    found["rounding"] = distance(gradient_of(start(False), joined(batches[::-1])), reference)
    # Each part of it taken out.
    with not_averaged():
        found["no average"] = distance(gradient_of(start(True), mine), reference)
    algo = start(True)
    for module in algo.impl.network.modules():
        if isinstance(module, TdBN):
            module.sums = None
    found["no statistics"] = distance(gradient_of(algo, mine), reference)
    algo = start(True)
    with patch.object(impl.SpikingImpl, "_mean", lambda _, x, masks: impl.masked_mean(x, masks)):
        found["no weights"] = distance(gradient_of(algo, mine), reference)
    return found


def _statistics(algo: Any) -> dict[str, Tensor]:
    network = algo.impl.network
    return {n: x for n, x in network.named_buffers() if n.rpartition(".")[2].startswith("running")}


def all_gradients() -> dict[str, dict[str, Errors]]:
    """Every case."""
    return {
        "dsformer, theta 0.5": gradients("dsformer", 2),
        "dsformer, theta 0": gradients("dsformer", 4),
        "dsformer, all tokens in the statistics": gradients("dsformer", 2, mask_statistics=False),
        "discrete_dsformer, theta 0.25": gradients("discrete_dsformer", 3),
        "discrete_dsformer, theta 0": gradients("discrete_dsformer", 4),
        "sdt, theta 0.5": gradients("sdt", 2),
        "strl, theta 0.5": gradients("strl", 2, normalization="ptbn"),
        # Compiled, where numba is installed.
        "dsformer, auto, theta 0.5": gradients("dsformer", 2, kernel="auto"),
        "dsformer, auto, theta 0": gradients("dsformer", 4, kernel="auto"),
        "discrete_dsformer, auto, theta 0": gradients("discrete_dsformer", 4, kernel="auto"),
        "sdt, auto, theta 0.5, bf16": gradients("sdt", 2, kernel="auto", matmul="bf16"),
    }


def digest(algo: Any) -> str:
    """A hash of all that training moves."""
    out = hashlib.sha256()
    content: Any
    for name, content in algo.impl.modules.create_checkpointer("cpu").modules.items():
        state = content.state_dict()
        flat = state.items() if isinstance(content, nn.Module) else _flat(state)
        for key, value in flat:
            data = value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
            out.update(f"{name}.{key}".encode() + data)
    return out.hexdigest()


def _flat(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict):
        for key in sorted(state, key=str):
            yield from _flat(state[key], f"{path}.{key}")
    elif isinstance(state, list | tuple):
        for i, part in enumerate(state):
            yield from _flat(part, f"{path}.{i}")
    elif not callable(state):
        yield path, state


def equal(value: Any) -> bool:
    """Whether both ranks have the same."""
    one, other = gather_objects(value)
    return bool(one == other)


def updated(algo: Any, steps: int = 20) -> dict[str, bool]:
    """Whether ranks differ in their batches, and agree in what comes of them."""
    data = make_dataset(is_discrete(algo), seed=rank())
    d3rlpy.seed(rank())
    before = digest(algo)
    batches = [data.sample_trajectory_batch(8, LENGTH) for _ in range(steps)]
    metrics = [algo.update(batch) for batch in batches]
    assert all(np.isfinite(list(m.values())).all() for m in metrics)
    return {
        "moved": before != digest(algo),
        "same batches": equal(batches[0].observations.tobytes()),
        "same state": equal(digest(algo)),
    }


def updates() -> dict[str, dict[str, bool]]:
    """Twenty updates of each algorithm; theta ends its course after five."""
    found = {}
    for name in ("dsformer", "discrete_dsformer", "sdt", "tacr", *DENSE):
        algo = make(name) if name in DENSE else make(name, ptbn_steps=5, num_layers=1)
        found[name] = updated(algo)
    found["batch norm in the encoder"] = updated(
        make("decision_transformer", encoder_factory=d3rlpy.models.VectorEncoderFactory(
            [8], use_batch_norm=True))
    )  # fmt: skip
    with not_averaged():
        found["no average"] = updated(make("dsformer", num_layers=1))
    return found


def schedules() -> dict[str, Any]:
    """Counted tokens and learning rate of both ranks, and the tokens that there were."""
    found: dict[str, Any] = {}
    for name in ("discrete_sdt", "discrete_decision_transformer"):
        algo = make(name, warmup_tokens=1000)
        metrics = algo.impl.update(batch_of(TOKENS[rank()], rank(), True), 0)
        found[name] = gather_objects((algo.impl._tokens, metrics["learning_rate"]))
    found["tokens"] = sum(map(sum, TOKENS.values()))
    return found


def q_learning() -> dict[str, bool]:
    """Whether d3rlpy's other algorithms, with a spiking encoder, keep ranks equal."""
    found = {}
    data = make_dataset(False, seed=rank())
    factory = PopulationSpikingEncoderFactory(hidden_units=[8])
    for config in (TD3PlusBCConfig(actor_encoder_factory=factory), IQLConfig()):
        d3rlpy.seed(0)
        algo = config.create()
        algo.create_impl((5,), ACTIONS["continuous"])
        distribute(algo)
        d3rlpy.seed(rank())
        for _ in range(4):
            algo.update(data.sample_transition_batch(8))
        found[type(algo).__name__] = equal(digest(algo))
    return found


def acts_alone() -> bool:
    """Only rank 0 decides, evaluates and saves, in the midst of training; nobody waits."""
    for name in ("dsformer", "decision_transformer", "tacr", "dense_tacr"):
        algo = make(name)
        updated(algo, 2)
        if is_main():
            algo.predict(make_context(algo))
            if name == "dsformer":
                algo.fold()
        if not updated(algo, 2)["same state"]:
            return False
    return True


def loaded(folder: Path) -> dict[str, bool]:
    """Files of two ranks in one process, and in two."""
    algo = make("dsformer")
    updated(algo, 3)
    if is_main():
        algo.save(str(folder / "a.d3"))
        algo.save_model(str(folder / "a.pt"))
    broadcast_object(None)  # the files are there
    alone = d3rlpy.load_learnable(str(folder / "a.d3"))
    state = digest(algo)
    found = {"alone": digest(alone) == state, "without the others": False}
    if is_main():  # it waits for nobody
        alone.update(make_dataset(False).sample_trajectory_batch(4, LENGTH))
        found["without the others"] = True
    again = distribute(d3rlpy.load_learnable(str(folder / "a.d3")))
    weights = make("dsformer")
    weights.load_model(str(folder / "a.pt"))
    for name, other in (("load_learnable", again), ("load_model", weights)):
        found[name] = digest(other) == state and updated(other, 3)["same state"]
    # It goes on as the one that was saved would.
    updated(algo, 3)
    found["goes on"] = digest(again) == digest(algo)
    return found


def fits() -> dict[str, Any]:
    """`fit` by hand: theta, and whether ranks agree."""
    algo = make("dsformer", ptbn_steps=2)
    train(algo, 4, 2)
    return {"theta": float(algo.impl.progress.theta), "same state": equal(digest(algo))}


def refused() -> dict[str, str]:
    """What cannot be distributed, and what is said of it."""
    built: Callable[..., Any] = d3rlpy.algos.DecisionTransformerConfig(num_layers=1).create
    wrapped = built(enable_ddp=True)
    wrapped.create_impl((5,), 2)
    other = built()
    other.create_impl((5 + rank(),), 2)
    compiled = built()
    compiled.create_impl((5,), 2)
    found = {}
    cases = {"unbuilt": built(), "wrapped": wrapped, "other shapes": other}
    for name, algo in cases.items():
        try:
            distribute(algo)
        except ValueError as error:
            found[name] = str(error)
    with patch.object(type(compiled), "compiled", True):
        try:
            distribute(compiled)
        except ValueError as error:
            found["compiled"] = str(error)
    # Let go of what would outlive the group.
    wrapped.impl.modules.__dict__["transformer"] = None
    return found


def after(algo: Any) -> dict[str, Any]:
    """Once the group has ended: an algorithm that was distributed trains on, alone."""
    before = digest(algo)
    algo.update(make_dataset(False).sample_trajectory_batch(4, LENGTH))
    try:
        distribute(algo)
    except RuntimeError as error:
        return {"moved": digest(algo) != before, "error": str(error)}
    return {}
