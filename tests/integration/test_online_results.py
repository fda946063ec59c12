"""Online runs: what is kept of them, their tables against numbers worked out by hand, curves."""

import dataclasses
import json
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.results.__main__ import main
from benchmarks.results.command import portable, template
from benchmarks.results.coverage import coverage
from benchmarks.results.figures import _shared, write_figures
from benchmarks.results.markdown import marks
from benchmarks.results.record import Record, Start, read, read_all
from benchmarks.results.runs import collect
from benchmarks.results.summary import Group, average, group, outcome, ratio, t_interval
from benchmarks.results.table import COVERAGE, tables
from tests.common import ROOT

ENV = "HalfCheetah-v4"
BEGIN, END = marks("online")


def write_run(
    runs: Path, means: list[float], *, kind: str = "spiking", env: str = ENV, seed: int = 0,
    number: int = 1, spread: float = 1.0, **settings: Any,
) -> Path:  # fmt: skip
    """As benchmarks.online_learning and RL Zoo leave it; an evaluation each 100,000 steps."""
    folder = runs / kind / f"{env}_seed{seed}"
    inner = folder / "td3" / f"{env}_{number}"
    inner.mkdir(parents=True)
    steps = 100_000 * np.arange(1, len(means) + 1)
    # Half of the ten episodes above the mean, half below.
    around = np.array(means)[:, None] + spread * np.array([-1.0, 1.0] * 5)
    np.savez(inner / "evaluations.npz", timesteps=steps, results=around, ep_lengths=around)
    write_settings(inner / env / "config.yml", settings)
    command = ["python", "-m", "sb3_spiking.zoo", "train", "--algo", "td3", "--env", env]
    command += ["--seed", str(seed), "-conf", f"{ROOT}/zoo_configs/td3.yml", "-f", str(folder)]
    command += ["-params", "policy:'MlpPolicy'"]
    entry = {"from": 0, "commit": "abc123", "command": command}
    (folder / "commits.jsonl").write_text(json.dumps(entry) + "\n")
    return inner


def write_settings(path: Path, changed: dict[str, Any]) -> None:
    """As RL Zoo does it."""
    kwargs = "dict(net_arch=[256, 256], batch_norm=False)"
    settings = {"policy": "SpikingPopPolicy", "policy_kwargs": kwargs, "n_timesteps": 10} | changed
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        yaml.dump(OrderedDict(sorted(settings.items())), file)


def record(
    means: list[float], *, kind: str = "spiking", env: str = ENV, seed: int = 0, **settings: Any
) -> Record:
    steps = 100_000.0 * np.arange(1, len(means) + 1)
    starts = (Start(0, "abc123", "python"),)
    zeros = np.zeros(len(means))
    table = np.stack([steps, means, zeros, zeros, zeros], axis=1)
    return Record(env, kind, seed, "td3", 10, starts, table, settings or None)


def groups_of(*records: Record) -> dict[tuple[str, str], Group]:
    return {(one.env, one.kind): one for one in group(records, 300_000)}


# What is kept.


def test_collect_keeps_the_numbers_and_no_path_of_the_machine(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", [10.0, 20.004, 30.0], spread=2.0)
    assert collect(tmp_path / "runs", tmp_path / "data") == []
    kept = tmp_path / "data" / "spiking" / f"{ENV}_seed0.json"
    one = read(kept)
    # Mean, standard deviation, minimum and maximum of five times m - 2 and five times m + 2.
    expected = [[100_000, 10, 2, 8, 12], [200_000, 20, 2, 18, 22], [300_000, 30, 2, 28, 32]]
    assert one.table.tolist() == expected
    assert (one.env, one.kind, one.seed, one.algo, one.episodes) == (ENV, "spiking", 0, "td3", 10)
    assert one.starts[0].command == (
        f"python -m sb3_spiking.zoo train --algo td3 --env {ENV} --seed 0 "
        f"-conf zoo_configs/td3.yml -f runs/online/spiking/{ENV}_seed0 -params "
        "\"policy:'MlpPolicy'\""
    )
    assert str(tmp_path) not in kept.read_text()
    before = kept.read_bytes()
    collect(tmp_path / "runs", tmp_path / "data")
    assert kept.read_bytes() == before
    one.save(tmp_path / "again")
    assert (tmp_path / "again" / "spiking" / kept.name).read_bytes() == before


def test_a_run_of_a_million_steps_is_a_few_kilobytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_run(tmp_path / "runs", (1e4 * rng.random(100)).tolist(), spread=1234.5)
    collect(tmp_path / "runs", tmp_path / "data")
    assert (tmp_path / "data" / "spiking" / f"{ENV}_seed0.json").stat().st_size < 7000


def test_a_start_that_nothing_is_left_of_is_not_kept(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [1.0]).parents[1]
    first = json.loads((folder / "commits.jsonl").read_text())
    # One that was refused, or stopped before its next checkpoint; then two that went back.
    later = [(40_000, "other"), (40_000, "abc123"), (60_000, "b"), (80_000, "c"), (60_000, "d")]
    entries = [first, *({**first, "from": step, "commit": commit} for step, commit in later)]
    (folder / "commits.jsonl").write_text("".join(json.dumps(one) + "\n" for one in entries))
    collect(tmp_path, tmp_path / "data")
    starts = read_all(tmp_path / "data")[0].starts
    assert [(start.step, start.commit) for start in starts] == [(0, "abc123"), (60_000, "d")]


def test_starts_are_kept_where_the_commit_or_the_command_changed(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [1.0]).parents[1]
    first = json.loads((folder / "commits.jsonl").read_text())
    later = [{**first, "from": 40_000}, {**first, "from": 60_000, "commit": "def456"}]
    (folder / "commits.jsonl").write_text("".join(json.dumps(e) + "\n" for e in [first, *later]))
    collect(tmp_path, tmp_path / "data")
    starts = read_all(tmp_path / "data")[0].starts
    assert [(start.step, start.commit) for start in starts] == [(0, "abc123"), (60_000, "def456")]
    text = tables(read_all(tmp_path / "data"), [300_000])
    assert "`abc123`, `def456` from 60,000" in text


def test_the_folder_that_got_furthest_is_the_run(tmp_path: Path) -> None:
    write_run(tmp_path, [9.0, 9.0])
    other = tmp_path / "other"
    moved = tmp_path / "spiking" / f"{ENV}_seed0" / "td3"
    for number, means in ((2, [1.0, 2.0, 3.0]), (10, [4.0, 5.0, 6.0]), (11, [7.0])):
        write_run(other, means, number=number).rename(moved / f"{ENV}_{number}")
        (other / "spiking" / f"{ENV}_seed0" / "commits.jsonl").unlink()
    collect(tmp_path, tmp_path / "data")
    assert read_all(tmp_path / "data")[0].means.tolist() == [4.0, 5.0, 6.0]


@pytest.mark.parametrize("damage", ["cut", "empty", "nan", "falling"])
def test_damaged_evaluations_are_named_and_the_rest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    runs, data = tmp_path / "runs", tmp_path / "data"
    write_run(runs, [1.0, 2.0, 3.0])
    assert main(["collect", str(runs), "--data", str(data)]) == 0
    kept = data / "spiking" / f"{ENV}_seed0.json"
    before = kept.read_bytes()
    write_run(runs, [4.0], seed=1)
    path = runs / "spiking" / f"{ENV}_seed0" / "td3" / f"{ENV}_1" / "evaluations.npz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        steps, results = np.array([2, 1]), np.ones((2, 10))
        if damage == "nan":
            steps, results = np.array([1, 2]), np.full((2, 10), np.nan)
        np.savez(path, timesteps=steps, results=results)
    assert main(["collect", str(runs), "--data", str(data)]) == 1
    assert f"not kept: {path}" in capsys.readouterr().out
    assert kept.read_bytes() == before
    assert [one.seed for one in read_all(data)] == [0, 1]


def test_runs_without_evaluation_or_commits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spiking" / f"{ENV}_seed3").mkdir(parents=True)
    folder = write_run(tmp_path, [1.0]).parents[1]
    (folder / "commits.jsonl").unlink()
    problems = collect(tmp_path, tmp_path / "data")
    assert "seed3: no evaluation yet" in capsys.readouterr().out
    assert len(problems) == 1
    assert "commits.jsonl" in problems[0]
    with pytest.raises(ValueError, match="KIND/ENV_seedSEED"):
        collect(tmp_path / "spiking", tmp_path / "data")


def test_commands_for_anyone_s_checkout() -> None:
    words = ["python", "-conf", "/home/me/own.yml", "-params", "kwargs:dict(file='/a/b/c.npz')"]
    assert portable(words, "-") == "python -conf own.yml -params \"kwargs:dict(file='c.npz')\""
    line = f"python --env {ENV} --seed 2 -n 2 -f runs/online/dense/{ENV}_seed2"
    assert template(line, ENV, 2) == (
        "python --env ENV --seed SEED -n 2 -f runs/online/dense/ENV_seedSEED"
    )


def test_a_damaged_kept_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spiking").mkdir()
    path = tmp_path / "spiking" / f"{ENV}_seed0.json"
    path.write_text('{"env": "HalfCheetah-v4"')
    assert main(["table", "--data", str(tmp_path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert main(["table", "--data", str(tmp_path / "none")]) == 1
    assert "collect" in capsys.readouterr().err


# Hyperparameters.


def test_collect_keeps_the_hyperparameters_of_a_run_that_went_on(tmp_path: Path) -> None:
    kwargs = (
        f"dict(net_arch=dict(pi=[8], qf=[]), activation_fn=nn.ReLU, file='{tmp_path}/x.npz',"
        " v_decay=-1.0)"
    )
    given: dict[str, Any] = {"learning_rate": "lin_0.001", "train_freq": (1, "step")}
    given["policy_kwargs"] = kwargs
    folder = write_run(tmp_path / "runs", [1.0, 2.0], **given).parents[1]
    line = json.loads((folder / "commits.jsonl").read_text())
    with (folder / "commits.jsonl").open("a") as file:
        file.write(json.dumps({**line, "from": 100_000, "commit": "def456"}) + "\n")
    # As parameters of the command line: Python's own values.
    typed = {"net_arch": [8], "activation_fn": torch.nn.ReLU, "betas": (0.9, 0.99)}
    write_run(tmp_path / "runs", [1.0], seed=1, policy_kwargs=typed)
    assert collect(tmp_path / "runs", tmp_path / "data") == []
    first, second = read_all(tmp_path / "data")
    assert len(first.starts) == 2
    assert first.hyperparameters == {
        "learning_rate": "lin_0.001", "n_timesteps": 10, "policy": "SpikingPopPolicy",
        "policy_kwargs": {
            "activation_fn": "nn.ReLU", "file": "x.npz", "net_arch": {"pi": [8], "qf": []},
            "v_decay": -1.0,
        },
        "train_freq": [1, "step"],
    }  # fmt: skip
    assert second.hyperparameters is not None
    assert second.hyperparameters["policy_kwargs"] == {
        "activation_fn": "name:torch.nn.modules.activation.ReLU", "betas": [0.9, 0.99],
        "net_arch": [8],
    }  # fmt: skip
    kept = first.path(tmp_path / "data")
    assert str(tmp_path) not in kept.read_text()
    assert first.save(tmp_path / "again").read_bytes() == kept.read_bytes()


def test_rl_zoo_s_settings_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, [1.0]) / ENV / "config.yml"
    for content in ("policy: [", "- policy", "policy_kwargs: dict(a", "a: !other b"):
        path.write_text(content)
        assert f"{path} is damaged" in collect(tmp_path, tmp_path / "data")[0]
    path.unlink()
    assert f"there is no {path}" in collect(tmp_path, tmp_path / "data")[0]


def test_runs_of_one_kind_have_one_set_of_hyperparameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, data = tmp_path / "runs", tmp_path / "data"
    write_run(runs, [1.0] * 3, policy_kwargs="dict(spike_steps=5, net_arch=[8])")
    # The order, the form and how far it may go do not matter, nor another environment.
    same = {"net_arch": [8], "spike_steps": 5}
    write_run(runs, [1.0] * 3, seed=1, policy_kwargs=same, n_timesteps=20)
    write_run(runs, [1.0] * 3, env="Ant-v4", gamma=0.5)
    assert collect(runs, data) == []
    arguments = ["table", "--data", str(data)]
    assert main(arguments) == 0
    other = {"net_arch": [8], "spike_steps": 10, "decoder": "membrane"}
    write_run(runs, [1.0] * 3, seed=2, policy_kwargs=other, gamma=0.9)
    collect(runs, data)
    capsys.readouterr()
    assert main(arguments) == 1
    assert (
        f"spiking/{ENV}_seed2 has gamma 0.9 and not nothing, policy_kwargs.decoder 'membrane' and "
        f"not nothing, policy_kwargs.spike_steps 10 and not 5, as spiking/{ENV}_seed0 has"
    ) in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert main(["figures", "--data", str(data), "--images", str(tmp_path / "images")]) == 1
    assert "must have the same hyperparameters" in capsys.readouterr().err


def test_hyperparameters_that_are_not_kept_are_taken_as_they_are() -> None:
    unknown, known = record([1.0] * 3), record([1.0] * 3, seed=1, policy="SpikingPopPolicy")
    group([unknown, known], 300_000)
    # Callbacks of spiking policies do nothing to a dense one.
    callback = "sb3_spiking.batch_norm.RecalibrationCallback"
    for policy, callbacks, alike in (
        ("MlpPolicy", callback, True),
        ("MlpPolicy", "own.Callback", False),
        ("SpikingPopPolicy", callback, False),
    ):
        pair = [record([1.0] * 3, policy=policy)]
        pair.append(record([1.0] * 3, seed=1, policy=policy, callback=callbacks))
        with nullcontext() if alike else pytest.raises(ValueError, match="callback"):
            group(pair, 300_000)


# What is counted.


def test_last_and_best_of_a_run() -> None:
    one = outcome(record([1.0, 9.0, 2.0, 3.0, 100.0]), 400_000)
    assert (one.steps, one.complete, one.best) == (400_000, True, 9.0)
    assert one.last == pytest.approx((9 + 2 + 3) / 3)
    short = outcome(record([1.0, 2.0]), 300_000)
    assert (short.steps, short.complete, short.last) == (200_000, False, 1.5)
    with pytest.raises(ValueError, match="at least 100,000"):
        outcome(record([1.0]), 50_000)


def test_unfinished_runs_are_in_no_mean() -> None:
    means = [[0.0, 0.0, 3.0], [6.0, 6.0, 6.0], [500.0, 500.0]]
    one = groups_of(*(record(values, seed=seed) for seed, values in enumerate(means)))[
        ENV, "spiking"
    ]
    mean = one.mean("last")
    assert mean is not None
    assert mean.value == pytest.approx((1 + 6) / 2)
    # Of two seeds, one is drawn: the ends are the seeds themselves.
    assert mean.interval == pytest.approx((1.0, 6.0))


def test_intervals_of_three_seeds() -> None:
    values = [10.0, 20.0, 60.0]
    one = groups_of(*(record([value] * 3, seed=k) for k, value in enumerate(values)))
    mean = one[ENV, "spiking"].mean("last")
    assert mean is not None
    assert mean.interval == (10.0, 60.0)  # the range
    assert mean.draws is not None
    # Two draws: the variance of their mean is the unbiased 700 / 3, not 700 * 2 / 9.
    assert mean.draws.var() == pytest.approx(700 / 3, rel=0.05)
    # Student's t of two degrees of freedom: 4.3027.
    half = 4.302653 * (700 / 3) ** 0.5
    assert t_interval(values) == pytest.approx((30 - half, 30 + half))
    assert t_interval([1.0]) is None


def test_ratio_and_its_mean_over_environments() -> None:
    runs = [
        *(record([value] * 3, seed=k) for k, value in enumerate((90.0, 110.0))),
        *(record([value] * 3, seed=k, kind="dense") for k, value in enumerate((50.0, 200.0))),
        record([30.0] * 3, env="Ant-v4"),
        record([60.0] * 3, env="Ant-v4", kind="dense"),
    ]
    found = groups_of(*runs)
    cheetah = ratio(found[ENV, "spiking"], found[ENV, "dense"], "last")
    ant = ratio(found["Ant-v4", "spiking"], found["Ant-v4", "dense"], "last")
    assert cheetah is not None
    assert ant is not None
    assert (cheetah.value, ant.value) == pytest.approx((100 / 125, 0.5))
    # Four pairs, a quarter of the draws each: 90/200, 110/200, 90/50, 110/50.
    assert cheetah.interval == pytest.approx((0.45, 2.2))
    assert ant.interval is None
    both = average([cheetah, ant])
    assert both.value == pytest.approx(0.65)
    assert both.interval is None  # one of them has no spread
    assert average([cheetah, cheetah]).interval == pytest.approx((0.45, 2.2))


def test_no_ratio_to_returns_that_are_not_above_zero() -> None:
    found = groups_of(record([5.0] * 3), record([-1.0] * 3, kind="dense"))
    assert ratio(found[ENV, "spiking"], found[ENV, "dense"], "last") is None


def test_an_interval_does_not_change_with_what_else_was_run() -> None:
    runs = [record([value] * 3, seed=k) for k, value in enumerate((1.0, 2.0, 4.0, 8.0, 16.0))]
    alone = groups_of(*runs)[ENV, "spiking"].mean("last")
    beside = groups_of(*runs, record([1.0] * 3, env="Ant-v4"))[ENV, "spiking"].mean("last")
    assert alone is not None
    assert beside is not None
    assert alone.interval == beside.interval
    assert alone.interval != (1.0, 16.0)


@pytest.mark.parametrize("seeds", [2, 3])
def test_what_the_text_says_of_so_many_seeds(seeds: int) -> None:
    held = coverage(seeds, 4, trials=600, resamples=500)
    said = COVERAGE[seeds]
    assert held["mean"] == pytest.approx(said["mean"] / 100, abs=0.05)
    assert held["mean, t"] == pytest.approx(0.95, abs=0.03)
    assert held["ratio"] == pytest.approx(said["ratio"] / 100, abs=0.04)
    assert held["mean of ratios"] == pytest.approx(said["overall"] / 100, abs=0.04)


def test_the_text_speaks_of_the_number_of_seeds_that_most_have() -> None:
    def runs(kind: str, seeds: int) -> list[Record]:
        return [record([1.0] * 3, kind=kind, seed=seed) for seed in range(seeds)]

    text = tables([*runs("dense", 2), *runs("spiking", 2)], [300_000])
    assert "a mean over two seeds" in text
    assert "coverage --seeds 2`" in text
    text = tables([*runs("dense", 3), *runs("spiking", 3)], [300_000])
    assert "a mean over three seeds" in text
    text = tables([*runs("dense", 5), *runs("spiking", 5)], [300_000])
    assert "a mean over three seeds" in text  # more is not said of than was counted


# Tables and curves.


def kept_runs(tmp_path: Path) -> Path:
    """Two environments, two seeds, one of them unfinished, and a variant."""
    runs, data = tmp_path / "runs", tmp_path / "data"
    for env, scale in ((ENV, 1000.0), ("Ant-v4", 100.0)):
        for seed in (0, 1):
            write_run(runs, [scale, 2 * scale, (6 + seed) * scale], env=env, seed=seed)
            dense = [scale, 4 * scale, 4 * scale][: 2 if (env, seed) == ("Ant-v4", 1) else 3]
            write_run(runs, dense, env=env, seed=seed, kind="dense")
    write_run(runs, [3000.0, 3000.0, 3000.0], kind="spiking-width2")
    assert collect(runs, data) == []
    return data


def test_the_table_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = kept_runs(tmp_path)
    assert main(["table", "--data", str(data), "--variant-steps", "300000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Last of seed 0: (1 + 2 + 6) / 3 = 3 thousand, of seed 1: 3.333; dense: 3 both.
    t = 3166.667 + np.array([-1, 1]) * 12.7062 * 235.7023 / 2**0.5
    assert (
        f"| {ENV} | spiking | 0, 1 | 300,000 | 3,167 | 3,000 to 3,333 | "
        f"{t[0]:,.0f} to {t[1]:,.0f} | 3,000, 3,333 | 1.056 | 1.000 to 1.111 |"
    ) in lines
    assert (
        f"| {ENV} | spiking-width2 | 0 | 300,000 | 3,000 | - | - | 3,000 | 1.000 | - |"
    ) in lines
    assert "| Ant-v4 | dense | 0 (1 unfinished) | 300,000 | 300 | - | - | 300 | - | - |" in lines
    assert "| **mean of 2 environments** | **spiking** |  |  |  |  |  |  | **1.056** | - |" in lines
    assert "| Ant-v4 | dense | 1 | **200,000** | 250 | 400 |" in lines
    assert "| Ant-v4 | dense | 1 | 200,000 (unfinished) | 250 | 400 | `abc123` |" in lines
    # Best: 6 and 7 over 4; then the published returns.
    assert "| Ant-v4 | 400 | 650 | 1.625 | - | 4,770 | 4,590 | 5,584 | 5,373 |" in lines
    popsan, ilc, care = 9594 / 10857 + 4590 / 4770, 9222 / 10857 + 5584 / 4770, 9563 / 10857 + (
        5373 / 4770
    )  # fmt: skip
    assert (
        f"| mean ratio to dense of 2 environments | 1.000 |  | 1.625 | - | 1.000 | "
        f"{popsan / 2:.3f} | {ilc / 2:.3f} | {care / 2:.3f} |"
    ) in lines
    header = next(line for line in lines if "PopSAN" in line)
    assert header.count("published (1M steps)") == 4
    # No run came to 1,000,000 steps.
    titles = [line for line in lines if line.startswith("###")]
    assert titles == ["### 300,000 steps", "### Options, 300,000 steps"]
    # A variant is no gap among the runs that all environments have.
    assert lines.index(titles[1]) < next(
        i for i, line in enumerate(lines) if "| spiking-width2 |" in line
    )


def test_commands_of_a_kind_as_they_are_today(tmp_path: Path) -> None:
    runs = [*read_all(kept_runs(tmp_path)), record([1.0] * 2, kind="counting_10", seed=4)]
    runs.append(record([1.0] * 10, kind="spiking", env="Ant-v4", seed=2))
    text = tables(runs, [300_000, 1_000_000], variant_budget=100_000).split("```bash\n")[1]
    lines = text.splitlines()
    typed = [line.split("online_learning ")[1] for line in lines if "-m benchmarks." in line]
    assert typed == [
        f"--kinds dense --envs Ant-v4 {ENV} --seeds 0 1",
        f"--kinds spiking --envs Ant-v4 {ENV} --seeds 0 1 2",
        "--kinds spiking --envs Ant-v4 --seeds 2 --steps 1000000",
        f"--kinds counting_10 --envs {ENV} --seeds 4 --steps 100000",
    ]
    # Below each, what the benchmark starts today.
    started = [line for line in lines if line.startswith("# python -m sb3_spiking.zoo train")]
    assert all("--env ENV --seed SEED -n 1000000" in line for line in started)
    assert "--dense -params \"policy:'MlpPolicy'\"" in started[0]
    assert started[1].endswith("-f runs/online/spiking/ENV_seedSEED")
    assert "recipe='popsan',neuron='lif',v_decay=1.0" in started[2]
    assert started[2].endswith('encoder_v_init=0.5,spike_steps=10)"')
    # A kind that the benchmark does not know.
    assert lines[-4:-1] == [
        "# spiking-width2",
        "# no kind of benchmarks.online_learning; as its runs were started",
        "python -m sb3_spiking.zoo train --algo td3 --env ENV --seed SEED -conf zoo_configs/td3.yml"
        " -f runs/online/spiking-width2/ENV_seedSEED -params \"policy:'MlpPolicy'\"",
    ]
    plain = tables([record([1.0])], [100_000], name="plain")
    assert (
        f"python -m benchmarks.online_learning --plain --kinds spiking --envs {ENV} --seeds 0 "
        "--steps 100000\n# python -m sb3_spiking.zoo train"
    ) in plain
    assert "-conf benchmarks/plain.yml" in plain


def test_a_later_budget_has_only_runs_that_went_on(tmp_path: Path) -> None:
    runs = [*read_all(kept_runs(tmp_path)), record([1.0] * 5, env="Hopper-v4")]
    runs.append(record([1.0] * 3, env="Hopper-v4", seed=1))  # was not meant to go on
    later = tables(runs, [300_000, 500_000]).split("### 500,000 steps")[1]
    assert "| Hopper-v4 | spiking | 0 | 500,000 | 1 | - | - | 1 | - | - |" in later
    assert "| Ant-v4 |" not in later


def test_tables_go_between_the_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, page = kept_runs(tmp_path), tmp_path / "results.md"
    page.write_text(f"before\n\n{BEGIN}\nyesterday\n{END}\n\nafter\n")
    assert main(["table", "--data", str(data), "--write", str(page)]) == 0
    first = page.read_text()
    assert first.startswith(f"before\n\n{BEGIN}\n\nReturns")
    assert first.endswith(f"```\n\n{END}\n\nafter\n")
    assert "yesterday" not in first
    assert main(["table", "--data", str(data), "--write", str(page)]) == 0
    assert page.read_text() == first
    other = f"{BEGIN}\n{END}\n{marks('plain')[0]}\n{marks('plain')[1]}\n"
    page.write_text(other)
    arguments = ["table", "--data", str(data), "--write", str(page), "--name", "plain"]
    assert main([*arguments, "--steps", "300000"]) == 0
    assert page.read_text().startswith(f"{BEGIN}\n{END}\n{marks('plain')[0]}\n\nReturns")
    page.write_text(f"{END} {BEGIN}")
    assert main(["table", "--data", str(data), "--write", str(page)]) == 1
    assert page.read_text() == f"{END} {BEGIN}"
    assert "once each" in capsys.readouterr().err


def test_figures_are_small_and_white(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("matplotlib.image")
    data, images = kept_runs(tmp_path), tmp_path / "images"
    arguments = ["figures", "--data", str(data), "--images", str(images)]
    assert main(arguments) == 0
    names = ["online.png", "online_variants.png"]
    assert sorted(path.name for path in images.iterdir()) == names
    assert all((images / name).stat().st_size < 150_000 for name in names)
    for name in names:
        pixels = image.imread(images / name)
        np.testing.assert_array_equal(pixels[0, 0], 1.0)  # opaque white
        assert (pixels[..., :3].std(axis=2) > 0.1).mean() > 0.001  # coloured lines
    assert main([*arguments, "--variants-env", "Ant-v4"]) == 1
    assert f"['{ENV}']" in capsys.readouterr().err


def test_a_budget_before_the_first_evaluation_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    data, images = str(kept_runs(tmp_path)), tmp_path / "images"
    message = "--steps must be at least 100,000, the first evaluation of dense/Ant-v4_seed0, got 5"
    for command in (["figures", "--images", str(images)], ["table"]):
        assert main([*command, "--data", data, "--steps", "5000"]) == 1
        assert message in capsys.readouterr().err
    assert not list(images.iterdir())


def test_a_run_that_was_stopped_is_no_long_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shifted = record([1.0, 2.0, 3.0])
    shifted.table[-1, 0] = 305_000.0
    assert write_figures([shifted], tmp_path, 300_000) == [tmp_path / "online.png"]


def test_long_runs_have_a_figure_and_bytes_stay(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [record([1.0, 2.0, 3.0, 5.0]), record([2.0, 3.0, 3.0], kind="dense")]
    first = write_figures(runs, tmp_path, 300_000)
    assert [path.name for path in first] == ["online.png", "online_long.png"]
    before = [path.read_bytes() for path in first]
    assert before[0] != before[1]
    # Up to the budget nothing has changed.
    assert write_figures([_shorter(runs[0]), runs[1]], tmp_path, 300_000) == first[:1]
    assert first[0].read_bytes() == before[0]


def test_runs_that_were_stopped_are_drawn_between_their_evaluations(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shifted = record([1.0, 2.0, 3.0], seed=1)
    shifted.table[1:, 0] += 5_000.0
    assert _shared([record([1.0, 2.0, 3.0]), shifted]).tolist() == [100_000, 200_000, 300_000]
    assert _shared([shifted, record([1.0, 2.0, 3.0])]).tolist() == [100_000, 205_000]
    assert write_figures([record([1.0, 2.0, 3.0]), shifted], tmp_path, 310_000, name="plain") == [
        tmp_path / "plain.png"
    ]


def _shorter(one: Record) -> Record:
    return dataclasses.replace(one, table=one.table[:3])
