"""Whole modules on two ranks and in mixed precision."""

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.config import EncoderConfig, PopulationActorConfig
from policies.distributed import DataParallel, FixedScaler, loss_factor, rank, world_size
from policies.kernels.choice import Matmul
from policies.normalizer import RunningNormalizer
from tests.policies.distributed.common import check, error_of, gradients, normal, part

PRECISIONS: tuple[Any, ...] = (None, "bf16", "fp16")
# Built before there was a process group, on each rank from another seed.
EARLY: DataParallel | None = None


def _actor(matmul: Matmul) -> PopulationActor:
    config = PopulationActorConfig(
        hidden_sizes=(24, 16), encoder=EncoderConfig(pop_size=4), normalize=False, matmul=matmul
    )
    return PopulationActor(5, 2, config)


def _networks() -> dict[str, nn.Module]:
    # A bias in front of a batch norm has no gradient but rounding.
    first = nn.Linear(5, 16, bias=False)
    dense = nn.Sequential(first, nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 2))
    return {"spiking": _actor("exact"), "dense": dense}


def _backward(net: DataParallel, sizes: tuple[int, int]) -> dict[str, Tensor]:
    x, y = part(normal(8, 5), sizes), part(normal(8, 2, seed=1), sizes)
    loss = (net(x) - y).square().mean() * loss_factor(len(x))
    net.zero_grad()
    net.scaler.scale(loss).backward()
    return gradients(net)


@check
def equal_gradients() -> dict[str, Any]:
    """Even and uneven batches; modules that begin apart are made equal."""
    found = {}
    for name in ("spiking", "dense"):
        for sizes in ((4, 4), (3, 5)):
            torch.manual_seed(rank())
            net = DataParallel(_networks()[name])
            found[f"{name}, {sizes}"] = _backward(net, sizes)
    return found


@check
def module_alone() -> dict[str, Tensor]:
    """Around the wrapper: wrong on purpose."""
    torch.manual_seed(0)
    net = DataParallel(_networks()["dense"])
    (net.module(part(normal(8, 5), (4, 4))).square().mean()).backward()
    return gradients(net)


@check
def precisions() -> dict[str, Any]:
    """Which dtypes results, parameters, gradients and optimizers have."""
    found = {}
    for amp in PRECISIONS:
        torch.manual_seed(0)
        net = DataParallel(nn.ModuleDict(_networks())["dense"], amp=amp)
        inside: list[torch.dtype] = []
        net.module[3].register_forward_hook(lambda m, i, out, seen=inside: seen.append(out.dtype))  # type: ignore[index]
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            out = net(part(normal(8, 5), (4, 4)))
            net.scaler.scale(out.square().mean()).backward()
            net.scaler.step(optimizer)
            net.scaler.update()
        state = [x for s in optimizer.state.values() for x in s.values() if x.is_floating_point()]
        found[str(amp)] = {
            "inside": inside[0],
            "float32": all(
                x is not None and x.dtype == torch.float32
                for x in (out, *net.parameters(), *gradients(net).values(), *state)
            ),
            "parameters": [p.detach().clone() for p in net.parameters()],
            "enabled": net.scaler.is_enabled(),
        }
    return found


@check
def structures() -> list[Any]:
    """Results within tuples, lists and dicts."""

    class Several(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return {"a": (y, [y, 1]), "b": torch.return_types.max((y, y.argmax(-1)))}

    out = DataParallel(Several(5, 2), amp="bf16")(normal(3, 5))
    return [out["a"][0].dtype, out["a"][1][0].dtype, out["a"][1][1], type(out["a"][1]).__name__]


def _learn(matmul: Matmul, scale: float | None) -> dict[str, Any]:
    """Train a spiking network in float16; in the middle rank 1's gradient becomes infinite."""
    torch.manual_seed(0)
    net = DataParallel(_actor(matmul), amp="fp16", loss_scale=scale)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x = part(normal(64, 5), (32, 32))
    y = torch.tanh(x[:, :2])
    losses, scales, moved = [], [], []
    for step in range(40):
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        losses.append(float(loss.detach()))
        broken = float("inf") if step == 20 and rank() == 1 else 1.0
        net.scaler.scale(loss * broken).backward()
        net.scaler.step(optimizer)
        net.scaler.update()
        scales.append(net.scaler.get_scale())
        moved.append(not all(map(torch.equal, before, net.parameters())))
    return {
        "losses": losses,
        "scales": scales,
        "moved": moved,
        "parameters": [p.detach() for p in net.parameters()],
        "fixed": isinstance(net.scaler, FixedScaler),
    }


@check
def loss_scales() -> dict[str, Any]:
    """Fixed, and adaptive."""
    return {"fixed": _learn("float32", 1024), "adaptive": _learn("exact", None)}


@check
def rank_0_evaluates() -> bool:
    """With statistics of every kind in the network, between two steps of training."""
    torch.manual_seed(0)
    net = DataParallel(nn.Sequential(RunningNormalizer(5), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    for _ in range(3):
        net.train()(part(normal(8, 5), (4, 4))).sum().backward()
        if rank() == 0:
            with torch.no_grad():
                net.eval()(normal(3, 5))
    return True


@check
def copies() -> dict[str, Any]:
    """A deep copy and a pickle average their gradients too."""
    torch.manual_seed(rank())
    net = DataParallel(_networks()["dense"], find_unused_parameters=True)
    first = _backward(net, (4, 4))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    found = {}
    for name, twin in {"copy": copy.deepcopy(net), "pickle": loaded, "again": net}.items():
        found[name] = _backward(twin, (4, 4))
    names = list(net.state_dict())
    alone = list(net.module.state_dict())
    return {"first": first, **found, "names": [names == [f"module.{n}" for n in alone], names[:2]]}


@check
def built_early() -> dict[str, Any]:
    """Built before the process group: the ranks become equal at the first forward."""
    net = EARLY
    if net is None:  # one process alone
        torch.manual_seed(0)
        net = DataParallel(nn.Linear(3, 2))
    net(part(normal(8, 3), (4, 4))).square().mean().backward()
    return {"gradients": gradients(net), "weight": [p.detach() for p in net.parameters()]}


@check
def nothing_to_train() -> Tensor:
    """A module without parameters, and one whose parameters are frozen."""
    frozen = DataParallel(nn.Linear(3, 2).requires_grad_(False))
    assert frozen(normal(2, 3)).shape == (2, 2)
    out: Tensor = DataParallel(nn.Tanh(), amp="bf16")(normal(2, 3))
    return out


@check
def wrong_modules() -> list[str]:
    """Ranks that build different modules hear of it."""
    return [error_of(lambda: DataParallel(nn.Linear(3, 2 + (rank() if world_size() > 1 else 0))))]
