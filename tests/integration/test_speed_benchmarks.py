"""`python -m benchmarks` runs, and its rivals compute the same network. No times are checked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import BEGIN, END, GROUPS, group_names, put
from benchmarks.speed import memory, peers
from benchmarks.speed.actor import ACTIONS, DENSE, LOOP, OBS, make_ours, rivals
from benchmarks.speed.choices import Choice, every, plain
from benchmarks.speed.dsformer_plain import PlainDSFormer
from benchmarks.speed.harness import Options, race
from benchmarks.speed.peers import PEERS
from benchmarks.speed.popsan_loop import PopSANLoop
from benchmarks.speed.table import Goal, Section, goals_markdown
from tests.policies.dsformer_reference import Reference, random_weights

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_measures_every_group(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    # Memory and imports start a process for each row: see below.
    groups = ",".join(name for name in GROUPS if name != "memory")
    arguments = ["--quick", "--repeats", "1", "--only", groups]
    page.write_text(f"prose before\n{BEGIN}\nold\n{END}\nprose after\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--output", str(page)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text("utf-8")
    assert text.startswith("prose before\n")
    assert text.endswith("prose after\n")
    assert "\nold\n" not in text
    assert f"python -m benchmarks {' '.join(arguments)}" in text
    assert f"torch {torch.__version__}" in text
    for row in (
        "ours", LOOP, DENSE, *PEERS, "SB3's dense TD3", "SB3's dense PPO",
        "plain version of the released arithmetic", "d3rlpy's dense Decision Transformer",
        "matmuls alone, float32", "SB3's dense, model.predict",
    ):  # fmt: skip
        assert f"\n| {row}" in text, row
    for heading in (
        "Goals", "Actor, forward", "Actor, forward and backward", "TD3, one gradient step",
        "One action", "model.predict of one observation", "PPO rollout, 8 environments",
        "DSFormer, training step", "DSFormer, one-token inference", "PSSA over the context",
        "Share of the matmul floor, actor's", "Share of the matmul floor, DSFormer's",
        "GPU",
    ):  # fmt: skip
        assert f"### {heading}" in text, heading
    assert "0 of 76800 output spikes differ from ours" in text


def test_memory_and_imports_are_measured_in_processes_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []

    def child(arguments: list[str]) -> str:
        started.append(arguments)
        return "2.0"

    monkeypatch.setattr(memory, "child", child)
    sections = memory.run(Options(repeats=9))
    rows = [cell.row for section in sections for cell in section.cells]
    assert [choice.label for choice in plain(backward=True)] == rows[: rows.index(LOOP)]
    assert {LOOP, DENSE, *PEERS, "import sb3_spiking", "import d3rlpy_spiking"} <= set(rows)
    # Libraries take turns.
    imports = [arguments[1] for arguments in started if arguments[0] == "-c"]
    assert imports[:4] == imports[4:8]
    assert len(set(imports[:4])) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_a_step_of_a_larger_batch_takes_more_memory() -> None:
    assert 0.0 < memory.peak(DENSE, None, 256) < memory.peak(DENSE, None, 8192)


def test_groups_are_chosen_by_name() -> None:
    assert group_names("td3,actor") == ["td3", "actor"]
    for name in GROUPS:
        assert (ROOT / "benchmarks" / "speed" / f"{name}.py").is_file()
    with pytest.raises(Exception, match="'tD3' is none of actor, td3"):
        group_names("actor,tD3")


def test_without_marks_the_results_are_the_page() -> None:
    assert put("anything", "results") == f"{BEGIN}\n\nresults\n\n{END}\n"
    assert put(put("", "first"), "second") == put("", "second")


def test_rivals_take_turns_and_all_are_timed() -> None:
    calls: list[str] = []
    times = race(
        {name: (lambda name=name: calls.append(name)) for name in "abc"},  # type: ignore[misc]
        repeats=4,
        turn_s=0.0,
    )
    assert list(times) == ["a", "b", "c"]
    assert all(len(ms) == 4 and ms.min() > 0.0 for ms in times.values())
    # Behind the calls that set the length of the turns: rounds in which each has one turn.
    rounds = [calls[i : i + 3] for i in range(len(calls) - 12, len(calls), 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_ratios_goals_and_reasons_are_shown() -> None:
    faster = Section("Speed", "times faster")
    faster.add("ours", "batch 1", 2.0, 10.0, Goal(5.0))
    faster.add("ours", "batch 2", 4.0, 10.0, Goal(5.0))
    faster.add("loop", "batch 1", 10.0)
    faster.skip("norse", "batch 1", "not installed (pip install norse)")
    text = faster.markdown()
    assert "| ours | 2 ms, **5** (at least 5: met) | 4 ms, **2.5** (at least 5: not met) |" in text
    assert "| loop | 10 ms |  |" in text
    assert "| norse | not installed (pip install norse) |  |" in text
    slower = Section("Time", "time relative", direction="time")
    # Ratios are taken in each round: 1.2, 1.1, 1.2; that of the medians would be 1.1.
    slower.add("ours", "batch 1", [12.0, 22.0, 36.0], [10.0, 20.0, 30.0], Goal(1.4, at_least=False))
    goals = goals_markdown([faster, slower])
    assert "| Speed | ours, batch 2 | 2.5 | at least 5 | no |" in goals
    assert "| Time | ours, batch 1 | 1.2 | at most 1.4 | yes |" in goals
    assert goals_markdown([]) == ""


def test_every_choice_is_measured_once() -> None:
    labels = [choice.label for choice in every(backward=True)]
    assert len(labels) == len(set(labels))
    assert {choice.label for choice in plain()} <= set(labels)
    for choice in plain():
        assert make_ours(choice)(torch.zeros(2, OBS)).shape == (2, ACTIONS)


def test_networks_that_share_weights_spike_and_learn_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    obs = 2.0 * torch.randn(64, OBS, generator=generator)
    actor = make_ours(Choice())
    with torch.no_grad():
        for linear in actor.mlp.linears:
            linear.weight.mul_(2.0)  # type: ignore[operator]  # a parameter
    ours = actor.spikes(obs)
    assert 0.05 < float(ours.detach().mean()) < 0.95
    loop = PopSANLoop(OBS, ACTIONS).share(actor)
    assert torch.equal(ours, loop.spikes(obs))
    actor(obs).square().mean().backward()
    loop(obs).square().mean().backward()
    gradients = {name: p.grad for name, p in loop.named_parameters()}
    for name, parameter in actor.named_parameters():
        name = name.removeprefix("mlp.").replace("encoder.", "")
        assert parameter.grad is not None
        theirs = gradients[name]
        assert theirs is not None
        torch.testing.assert_close(theirs.view_as(parameter), parameter.grad, rtol=1e-3, atol=1e-7)
    for peer, (package, build) in PEERS.items():
        if not peers.missing(peer):
            assert torch.equal(ours, build(OBS, ACTIONS).share(actor).spikes(obs)), package


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    found, left_out = rivals()
    assert list(found) == [LOOP, DENSE]
    assert left_out["snnTorch"] == "not installed (pip install snntorch)"
    assert set(left_out) == set(PEERS)


@pytest.mark.parametrize("theta", [0.6, None])
def test_the_plain_dsformer_equals_the_equations(theta: float | None) -> None:
    weights = random_weights("pssa", "ptbn")
    # The file of a release holds which keys a query may see; theta is iter / total_step.
    local = torch.ones(9, 9).tril().triu(-7).bool()
    weights |= {name: local for name in weights if name.endswith("local_mask")}
    network = PlainDSFormer(5, 2, width=16, layers=2, length=9, norm_steps=100)
    network.load_state_dict(weights)
    generator = torch.Generator().manual_seed(0)
    obs, action, rtg = (torch.randn(3, 9, n, generator=generator) for n in (5, 2, 1))
    mask = torch.ones(3, 9)
    mask[0, :3] = 0.0
    expected = Reference(weights, "pssa", "ptbn").forward(obs, action, rtg, mask, theta)
    out = network.train(theta is not None)(obs, action, rtg, mask)
    assert float(out.detach().std()) > 0.1
    torch.testing.assert_close(out[mask > 0], expected[mask > 0], rtol=1e-4, atol=1e-5)
