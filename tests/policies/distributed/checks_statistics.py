"""Statistics of a batch that is spread over ranks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from policies.distributed import average_gradients, loss_factor, rank, share_statistics, world_size
from policies.distributed.statistics import SharedBatchNorm1d
from policies.normalization import NormConfig, TdBN, make_norm
from policies.normalizer import RunningNormalizer
from tests.policies.distributed.common import buffers, check, error_of, gradients, normal, part

SIZES = (3, 5)  # rows of each rank
Found = dict[str, Any]


class Normalized(nn.Module):
    """A normalizer that takes in each batch, and a network behind it."""

    def __init__(self, deferred: bool) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(4, deferred=deferred)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, obs: Tensor) -> Tensor:
        if self.training:
            self.normalizer.update(obs)
        out: Tensor = self.net(self.normalizer(obs))
        return out


def _batches(kind: str) -> list[Tensor]:
    batches = [normal(8, 4, seed=i) * 0.3 + 5.0 * (i > 2) for i in range(3)]
    if kind == "bounds":
        batches[1][6, 2] = 40.0  # a row of rank 1
        batches[1][6, 3] = float("nan")  # no bound is given up for it
    if kind == "nan":
        batches[1][7, 0] = float("nan")
        batches[2][7, 0] = float("inf")
    return batches


def _normalizer(kind: str, deferred: bool, shared: bool) -> Found:
    torch.manual_seed(0)
    net = Normalized(deferred)
    if kind == "bounds":
        net.normalizer.fix_bounds(torch.tensor([-1.0, -5.0, -5.0, -9.0]), torch.full((4,), 5.0))
    if shared:
        share_statistics(net)
    sizes = (8, 0) if kind == "empty" else SIZES
    outputs = []
    for batch in _batches(kind):
        obs = part(batch, sizes)
        net.zero_grad()
        outputs.append(net(obs).detach())
        learned = net.net(net.normalizer(obs[obs.isfinite().all(dim=1)]))
        learned.square().sum().div(8).backward()
        average_gradients(net.parameters())
    during = buffers(net)
    net.eval()
    with torch.no_grad():
        outputs.append(net(part(batches_all(), sizes)))
    # A mean over ranks of parts of a sum: times the number of ranks.
    grads = {name: grad * world_size() for name, grad in gradients(net).items()}
    return {"gradients": grads, "during": during, "buffers": buffers(net), "outputs": outputs}


def batches_all() -> Tensor:
    """Observations to evaluate on."""
    return normal(8, 4, seed=9)


@check
def normalizers() -> dict[str, Found]:
    """Every kind of batch, at once and deferred."""
    return {
        f"{kind}, deferred={deferred}": _normalizer(kind, deferred, shared=True)
        for kind in ("plain", "bounds", "empty", "nan")
        for deferred in (False, True)
    }


@check
def normalizers_apart() -> dict[str, Found]:
    """Nothing shared: wrong on purpose."""
    return {
        f"{kind}, deferred={deferred}": _normalizer(kind, deferred, shared=False)
        for kind in ("plain", "bounds")
        for deferred in (False, True)
    }


@check
def empty_normalizer() -> Found:
    """No rank has an observation: nothing changes."""
    net = RunningNormalizer(3)
    share_statistics(net)
    net.update(part(normal(8, 3), SIZES))
    before = buffers(net)
    net.update(torch.zeros(0, 3))
    return {"before": before, "after": buffers(net)}


def _train(net: nn.Module, x: Tensor, weight: Tensor, share: bool, run: Any = None) -> Found:
    """Three steps of a loss that is a mean over all rows; what is left of the last."""
    if share:
        share_statistics(net)
    outputs: Tensor = x
    for step in range(3):
        net.zero_grad()
        x = (x.detach() + 0.1 * step).requires_grad_()
        outputs = net(x) if run is None else run(net, x)
        rows = float(weight.sum())
        value = (outputs * outputs.cos() * weight).sum() / max(rows, 1.0)
        (value * loss_factor(rows)).backward()
        average_gradients(net.parameters())
    assert x.grad is not None
    return {
        "gradients": gradients(net),
        # The mean of the ranks' losses moves this rank's input by 1 / ranks of that.
        "input": x.grad / world_size(),
        "outputs": (outputs * weight).detach(),
        "buffers": buffers(net),
    }


class Tokens(nn.Module):
    """A norm of the transformer between two linear layers, [T, B, L, 6] -> [T, B, L, 3]."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        # A bias in front of a batch norm has no gradient but rounding.
        self.up, self.down = nn.Linear(6, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x: Tensor, theta: float, valid: Tensor | None) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.norm(self.up(x), theta, valid)))
        return out


VARIANT = NormConfig(layer_steps=2, shortcut=True)
TOKENS: dict[str, tuple[Callable[[], nn.Module], bool, float]] = {
    "tdbn": (lambda: TdBN(5, 0.5), False, 0.0),
    "tdbn masked": (lambda: TdBN(5, 0.5, masked=True), True, 0.0),
    "tdbn ignores the mask": (lambda: TdBN(5, 0.5), True, 0.0),
    "tdbn, float64": (lambda: TdBN(5, 0.5, masked=True), True, 0.0),
    "tdbn, all of rank 1 masked": (lambda: TdBN(5, 0.5, masked=True), True, 0.0),
    "ptbn": (lambda: make_norm(5, NormConfig()), True, 0.3),
    "ptbn, last part": (lambda: make_norm(5, NormConfig()), True, 0.0),
    "ptbn, other variant": (lambda: make_norm(5, VARIANT), True, 0.3),
}


def _tokens(name: str, share: bool) -> Found:
    make, masks, theta = TOKENS[name]
    torch.manual_seed(0)
    net = Tokens(make()).to(torch.float64 if "float64" in name else torch.float32)
    valid = (normal(8, 4, seed=3) > -0.3).float()
    if "all of rank 1" in name:
        valid[SIZES[0] :] = 0.0
    valid = part(valid, SIZES)
    weight = (valid if masks else torch.ones_like(valid)).view(1, *valid.shape, 1)
    x = part(normal(2, 8, 4, 6) * 2.0 + 1.0, SIZES, axis=1).to(net.up.weight.dtype)
    return _train(net, x, weight, share, lambda n, x: n(x, theta, valid if masks else None))


@check
def tokens() -> dict[str, Found]:
    """The transformer's norms, masked and not."""
    return {name: _tokens(name, share=True) for name in TOKENS}


@check
def tokens_apart() -> dict[str, Found]:
    """Nothing shared: wrong on purpose."""
    return {name: _tokens(name, share=False) for name in TOKENS}


BATCH_NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(5), (5,)),
    "1d, sequences": (lambda: nn.BatchNorm1d(5), (5, 3)),
    "2d": (lambda: nn.BatchNorm2d(5, momentum=0.3, eps=1e-3), (5, 3, 2)),
    "3d": (lambda: nn.BatchNorm3d(5), (5, 2, 3, 2)),
    "no affine": (lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    "all batches": (lambda: nn.BatchNorm1d(5, momentum=None), (5,)),
    "no running": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (5, 2, 2)),
    "float64": (lambda: nn.BatchNorm1d(5).double(), (5,)),
    "empty": (lambda: nn.BatchNorm1d(5), (5,)),
}


def _batch_norm(name: str, share: bool) -> Found:
    make, shape = BATCH_NORMS[name]
    torch.manual_seed(0)
    net = nn.Sequential(make(), nn.Tanh())
    sizes = (8, 0) if name == "empty" else SIZES
    x = part(normal(8, *shape) * 3.0 - 1.0, sizes).to(torch.float64 if name == "float64" else None)
    return _train(net, x, torch.ones_like(x), share)


@check
def batch_norms() -> dict[str, Found]:
    """torch's own."""
    return {name: _batch_norm(name, share=True) for name in BATCH_NORMS}


@check
def batch_norms_apart() -> dict[str, Found]:
    """Nothing shared: wrong on purpose."""
    return {name: _batch_norm(name, share=False) for name in BATCH_NORMS if name != "empty"}


@check
def evaluation_alone() -> Found:
    """Rank 0 evaluates, rank 1 does not: nobody waits."""
    torch.manual_seed(0)
    norms = nn.Sequential(
        nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False), RunningNormalizer(4)
    )
    plain = nn.Sequential(*norms).eval()
    before = plain(normal(6, 4))
    share_statistics(norms)
    after = [norms.eval()(normal(6, 4)) for _ in range(2)] if rank() == 0 else [before]
    return {"before": before, "after": after[-1], "names": [type(n).__name__ for n in norms]}


@check
def unknown_norm() -> list[str]:
    """A batch norm of unknown arithmetic is refused; norms that need nothing are let be."""

    class Own(nn.BatchNorm1d):
        pass

    fine = nn.Sequential(nn.SyncBatchNorm(2), nn.InstanceNorm1d(2), SharedBatchNorm1d(2))
    return [
        error_of(lambda: share_statistics(nn.ModuleDict({"inner": Own(2)}))),
        error_of(lambda: share_statistics(fine)),
    ]
