"""Groups of processes, exchanges, and what happens when one process is lost."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from policies.distributed import (
    barrier,
    broadcast_object,
    broadcast_state,
    gather_objects,
    is_main,
    process_group,
    rank,
    sum_over_ranks,
    world_size,
)
from policies.distributed.group import gather, launched, sum_number
from tests.common import ROOT
from tests.policies.distributed.common import distance, normal, same

VARIABLES = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
SECONDS = 30


def test_every_rank_knows_itself_and_the_others(ranks: dict[str, list[Any]]) -> None:
    found = ranks["identity"]
    assert [f["rank"] for f in found] == [(0, 2, 0, True), (1, 2, 1, False)]
    for mine in found:
        assert mine["objects"] == [{"rank": 0}, {"rank": 1}]
        assert mine["first"] == "from 0"
        assert mine["number"] == 4.0
        assert [g.tolist() for g in mine["gathered"]] == [[1, 2], [[1, 1], [2, 2]], [[], []]]
        assert mine["waited"]


def test_sums_and_their_gradients_are_those_of_one_process(ranks: dict[str, list[Any]]) -> None:
    found = ranks["sums"]
    x = torch.cat([f["kept"] for f in found]).requires_grad_()
    total = x.square().sum(dim=0)
    weights = normal(2, 3, seed=1)
    # Each rank's loss, summed.
    loss = (total.sin() * weights).sum() + 2 * total.sum() * weights.sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    for key, reference in (("first", first.detach()), ("second", second)):
        assert distance(torch.cat([f[key] for f in found]), reference) < 1e-6
    for mine in found:
        assert distance(mine["total"], total.detach()) < 1e-6
        assert torch.equal(mine["plain"], (found[0]["kept"] + found[1]["kept"]).t())
        assert not mine["needs"]


def test_rank_0s_state_is_everyones(ranks: dict[str, list[Any]]) -> None:
    first, second = ranks["broadcast"]
    assert same(first["before"], first["after"])
    assert same(second["after"], first["after"])
    for name in first["before"]:
        assert not same(second["before"][name], first["before"][name]), name
    assert first["in place"]
    assert second["in place"]


def test_modules_that_differ_are_named_on_every_rank(ranks: dict[str, list[Any]]) -> None:
    for mine in ranks["broadcast"]:
        for error, part in zip(
            mine["errors"], ("'weight'", "'weight'", "'1.weight'", "order"), strict=True
        ):
            assert error.startswith("ValueError: every rank must build the same module"), error
            assert part in error


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with process_group("no such backend"):
        assert (rank(), world_size(), is_main()) == (0, 1, True)
        x = torch.ones(2, requires_grad=True)
        assert sum_over_ranks(x) is x
        assert gather(x).shape == (1, 2)
        assert gather_objects("a") == ["a"]
        assert broadcast_object("b") == "b"
        assert sum_number(3.0) == 3.0
        barrier()
        broadcast_state(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="gloo of his own"), process_group():
        raise RuntimeError("gloo of his own")


@pytest.mark.parametrize("backend", ["mpy", "cpu:gloo,cuda:nckl", ""])
def test_unknown_backends_are_named(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    for name, value in {**VARIABLES, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="backend must be one of"), process_group(backend):
        raise AssertionError


@pytest.mark.parametrize("name", [*VARIABLES, "MASTER_PORT"])
def test_without_all_of_the_variables_there_is_one_process(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for key, value in {**VARIABLES, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    assert launched()
    monkeypatch.delenv(name)
    assert not launched()
    with process_group("nowhere"):
        assert world_size() == 1


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**VARIABLES, "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    with pytest.raises(ValueError, match="2 processes were started"), process_group():
        raise AssertionError


def test_a_lost_rank_is_told_of_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.policies.distributed.worker", "lost", str(tmp_path)]
    both = []
    for number in "10":
        env = {**os.environ, **VARIABLES, "RANK": number, "LOCAL_RANK": number}
        env["MASTER_PORT"] = port
        both.append(subprocess.Popen(command, cwd=ROOT, env={**env, "OMP_NUM_THREADS": "1"}))
    try:
        assert [process.wait(timeout=100) for process in both] == [-9, 0]
    finally:
        for process in both:
            process.kill()
    found = torch.load(tmp_path / "rank0.pt")
    assert found["seconds"] < SECONDS
    assert len(found["said"]) == 2  # by average_gradients, and by PyTorch's backward
    for message in found["said"]:
        assert message.startswith("rank 0 of 2 could not exchange data with the others")
        assert "last checkpoint" in message


def test_nothing_is_left_when_the_group_ends(launched: tuple[Path, str]) -> None:
    assert "terminate called" not in launched[1]
    assert "destroy_process_group" not in launched[1]
