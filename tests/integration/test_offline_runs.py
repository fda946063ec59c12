"""The offline benchmark: runs that resume, its datasets, its table."""

import hashlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import TD3

from benchmarks import (
    commits,
    finetune_online,
    offline_corridor,
    offline_episodes,
    offline_jitter,
    offline_replay_data,
    offline_runs,
    offline_summary,
    offline_training,
)
from benchmarks.offline_networks import NETWORKS, Recipe, make_config, network_names
from benchmarks.offline_training import STRETCHES, Late, Run, Task, Training
from benchmarks.online_learning import claimed
from d3rlpy_spiking.cli.quiet import quiet_logs
from d3rlpy_spiking.cli.runs import load_algorithm
from d3rlpy_spiking.datasets import load_npz
from tests.common import ROOT, run_module

RECIPE = Recipe(width=8, layers=1, context=20, batch=4, steps=2 * STRETCHES)


@pytest.fixture(scope="module")
def corridor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "corridor_20.npz"
    arrays = offline_corridor.collect(20, 12, seed=0)
    np.savez(path, allow_pickle=False, **arrays)
    return path


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_training, "CHOOSING", (2, 1000))
    monkeypatch.setattr(offline_training, "FINAL", (3, 2000))


def result_of(run: Run, out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run.result(out).read_text())
    for name in ("seconds", "cpu_seconds"):
        assert result.pop(name) > 0.0
    return result


@pytest.mark.parametrize("network", ["dt", "dsformer-pssa", "sdt"])
def test_a_stopped_run_ends_as_one_that_was_not(
    network: str, corridor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(corridor, network, 3, RECIPE)
    Training(run, tmp_path / "whole", time.time() + 1e6).go()
    stopped = Training(run, tmp_path / "stopped", time.time() + 1e6)
    steps = iter(range(100))

    def check_time() -> None:
        if next(steps) == 9:  # in the middle of the fifth stretch
            raise Late

    with monkeypatch.context() as patch:
        patch.setattr(stopped, "_check_time", check_time)
        with pytest.raises(Late):
            stopped.go()
    assert not run.result(tmp_path / "stopped").exists()
    again = Training(run, tmp_path / "stopped", time.time() + 1e6)
    assert again.state["step"] == 8
    again.go()
    whole, resumed = (result_of(run, tmp_path / name) for name in ("whole", "stopped"))
    assert whole == resumed
    assert whole["step"] == RECIPE.steps
    assert whole["settings"]["network"] == network
    assert len(whole["last"]["returns"]) == len(whole["best"]["returns"]) == 3
    assert [len(entry["returns"]) for entry in whole["scored"]] == [2] * 4
    assert [step for step, _ in whole["curve"]] == list(range(1, RECIPE.steps + 1))
    kept = {path.name for path in run.folder(tmp_path / "whole").glob("*.d3")}
    assert kept == {f"model_{whole[name]['step']}.d3" for name in ("last", "best")}


def test_a_result_names_the_commits_of_all_its_parts(
    corridor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(corridor, "dt", 0, RECIPE)
    progress = run.folder(tmp_path) / "progress.json"
    monkeypatch.setattr(offline_training, "own_commit", lambda: "a1-dirty")
    first = Training(run, tmp_path, time.time() - 1.0)
    with pytest.raises(Late):
        first.go()
    assert json.loads(progress.read_text())["commits"] == ["a1-dirty"]  # before any stretch
    monkeypatch.setattr(offline_training, "own_commit", lambda: "b2")
    Training(run, tmp_path, time.time() + 1e6).go()
    result = result_of(run, tmp_path)
    assert result["commits"] == ["a1-dirty", "b2"]
    (found,) = offline_summary.read(tmp_path, "last")
    assert found.commits == {"a1-dirty", "b2"}
    # A folder of before commits were kept.
    state = json.loads(progress.read_text())
    del state["commits"]
    progress.write_text(json.dumps(state))
    assert Training(run, tmp_path, 0.0).state["commits"] == ["unknown"]


def test_the_commit_is_that_of_the_processs_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter(["a1", "b2"])
    monkeypatch.setattr(commits, "current_commit", lambda: next(found))
    commits.own_commit.cache_clear()
    assert [commits.own_commit(), commits.own_commit()] == ["a1", "a1"]
    commits.own_commit.cache_clear()
    assert commits.commits_of({"commit": "a1"}) == commits.commits_of({"commits": ["a1"]}) == ["a1"]


def test_a_run_does_not_go_on_with_other_settings(
    corridor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(corridor, "dt", 0, RECIPE)
    late = Training(run, tmp_path, time.time() + 1e6)
    with quiet_logs():
        task = Task.load(corridor, RECIPE.context)
        late._stretch(late._algorithm(task), task)
    other = Run(corridor, "dt", 0, Recipe(**{**vars(RECIPE), "learning_rate": 1e-4}))
    with pytest.raises(ValueError, match="other settings"):
        Training(other, tmp_path, 0.0)
    with pytest.raises(ValueError, match="multiple of 8"):
        Training(Run(corridor, "dt", 0, Recipe(steps=12)), tmp_path, 0.0)
    # The list says so before it trains what stands in front of it.
    words = f"--datasets {corridor} --networks strl dt --seeds 0 --width 8 --layers 1 --batch 4 "
    words += f"--steps 16 --out {tmp_path}"
    offline_runs.parse(words.split())
    with pytest.raises(SystemExit):
        offline_runs.parse([*words.split(), "--learning-rate", "1e-4"])
    assert "progress.json is of a run with other settings" in capsys.readouterr().err


def test_the_list_skips_what_is_done(
    corridor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = f"--datasets {corridor} --networks dt dsformer-pssa-time --seeds 7 --out {tmp_path} "
    words += "--width 8 --layers 1 --batch 4 --steps 16"
    monkeypatch.setattr("sys.argv", ["offline_runs", *words.split()])
    offline_runs.main()
    first = capsys.readouterr().out
    assert first.count("done, return") == 2
    offline_runs.main()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.argv", ["offline_runs", *words.split(), "--list", "--seeds", "7", "8"])
    offline_runs.main()
    listed = capsys.readouterr().out
    assert listed.count("done") == 2
    assert listed.count("0 of 16 steps") == 2
    (found,) = offline_summary.read(tmp_path, "last")
    assert found.title.startswith("width 8, layers 1, heads 1, batch 4, steps 16, ")
    size = json.loads((tmp_path / "corridor_20" / "dt_c20_7.json").read_text())["parameters"]
    assert f"| dt | {size:,} | " in found.text()
    assert "| dsformer-pssa-time | " in found.text()
    assert "- corridor_20, context 20: seeds 7\n" in found.notes()
    for wrong, message in (
        (["--datasets", str(tmp_path / "none.npz")], "there is no dataset"),
        ([*words.split(), "--steps", "24"], "other settings"),
        ([*words.split(), "--steps", "20"], "--steps must be a multiple of 8, got 20"),
        (["--networks", "gpt"], "no network and no group"),
    ):
        with pytest.raises(SystemExit):
            offline_runs.parse(wrong)
        assert message in capsys.readouterr().err


def test_workers_end_with_the_process_that_started_them(corridor: Path, tmp_path: Path) -> None:
    words = f"--datasets {corridor} --networks dt --seeds 0 1 --steps 8000000 --jobs 2 "
    words += f"--out {tmp_path}"
    line = [sys.executable, "-m", "benchmarks.offline_runs", *words.split()]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        begun = (text for text in started.stdout if "from 0 of 8,000,000 steps" in text)
        assert len(list(itertools.islice(begun, 2))) == 2  # one line of each
        started.terminate()
        assert started.wait(60.0) == 143
        # A claim ends with the process that holds it, at the latest.
        for seed in range(2):
            with claimed(Run(corridor, "dt", seed, Recipe()).folder(tmp_path)) as free:
                assert free


def test_networks_are_of_one_size() -> None:
    for name in NETWORKS:
        config = make_config(name, RECIPE)
        assert config.attn_dropout == config.resid_dropout == config.embed_dropout == 0.0
        assert (config.num_layers, config.context_size, config.batch_size) == (1, 20, 4)
    assert make_config("dsformer-pssa-ptbn-30", Recipe(steps=1000)).ptbn_steps == 300
    assert network_names(["dt", "main"])[0] == "dt"
    assert len(network_names(["main", "dt"])) == 6
    with pytest.raises(ValueError, match="'gpt' is no network"):
        network_names(["gpt"])


def test_the_corridor_hides_its_cue() -> None:
    arrays = offline_corridor.collect(20, 40, seed=1)
    ends = np.flatnonzero(arrays["terminals"])
    assert len(ends) == 40
    np.testing.assert_array_equal(arrays["rewards"][ends], 1.0)
    assert arrays["rewards"].sum() == 40
    starts = np.concatenate([[0], ends[:-1] + 1])
    cues = arrays["observations"][starts, 0]
    assert 8 < (cues > 0).sum() < 32
    turns = []
    for start, end, cue in zip(starts, ends, cues, strict=True):
        obs, actions = arrays["observations"][start : end + 1], arrays["actions"][start : end + 1]
        shown = slice(0, offline_corridor.CUE)
        np.testing.assert_array_equal(obs[shown, 0], cue)
        np.testing.assert_array_equal(obs[offline_corridor.CUE :, 0], 0.0)
        walking = obs[:, 3] == 0
        np.testing.assert_array_equal(obs[walking, 2], 0.0)
        turns.append(np.sign(actions[~walking, 1]) == cue)
        assert abs(actions[walking, 1].mean()) < 0.05
    assert np.concatenate(turns).all()


def test_the_documented_commands_make_a_dataset_and_train_on_it(tmp_path: Path) -> None:
    """In processes of their own: nothing but the dataset says where its environment is."""
    path = tmp_path / "corridor_90.npz"
    words = f"--length 90 --episodes 4 --out {path}"
    assert "4 episodes" in run_module("benchmarks.offline_corridor", *words.split())
    words = f"--datasets {path} --networks memory --contexts 20 100 --batch 2 --steps 8 --seeds 0 "
    words += f"--width 8 --layers 1 --out {tmp_path / 'runs'}"
    printed = run_module("benchmarks.offline_runs", *words.split())
    assert printed.count("done, return") == 6
    result = json.loads((tmp_path / "runs" / "corridor_90" / "dt_c20_0.json").read_text())
    assert result["env"] == offline_corridor.env_id(90)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_id": None}, "must name its environment"),
        ({"env_id": np.array("Corridor7-v0")}, "'Corridor7-v0' of .* cannot be made"),
        ({"env_id": np.array("no_such_module:Corridor7-v0")}, "'no_such_module:Corridor7-v0' of"),
        ({"target": None}, "must hold the return to ask"),
    ],
)
def test_an_environment_that_cannot_be_made_is_named_before_training(
    changes: dict[str, Any],
    message: str,
    corridor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with np.load(corridor) as arrays:
        kept = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    path = tmp_path / "other.npz"
    np.savez(path, allow_pickle=False, **kept)
    with pytest.raises(ValueError, match=message):
        Task.load(path, 20)
    with pytest.raises(SystemExit):
        offline_runs.parse(["--datasets", str(path), "--out", str(tmp_path)])
    assert "other.npz" in capsys.readouterr().err


def test_a_wrong_turn_earns_nothing() -> None:
    env = gymnasium.make(offline_corridor.env_id(20))
    returns = {}
    for seed in range(6):
        _, info = env.reset(seed=seed)
        ended, total = False, 0.0
        while not ended:
            _, reward, terminated, truncated, _ = env.step(np.ones(2, np.float32))
            ended, total = terminated or truncated, total + float(reward)
        returns[info["cue"]] = total
    assert returns == {1.0: 1.0, -1.0: 0.0}


def test_replay_data_has_equal_parts(tmp_path: Path) -> None:
    models = {f"m{i}": TD3("MlpPolicy", "Pendulum-v1", seed=i, buffer_size=1) for i in range(2)}
    arrays, about = offline_replay_data.collect(models, "Pendulum-v1", 701, noise=0.1, seed=0)
    np.testing.assert_array_equal(np.bincount(arrays["checkpoint"]), [350, 351])
    assert [row["episodes"] for row in about] == [2, 2]
    best, _ = models["m0"].predict(arrays["observations"][:350], deterministic=True)
    noise = (arrays["actions"][:350] - best) / 2.0  # Pendulum's actions are in [-2, 2]
    inside = np.abs(arrays["actions"][:350]) < 2.0
    assert 0.05 < noise[inside].std() < 0.11
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)
    buffer = load_npz(tmp_path / "x.npz")
    assert sum(len(episode) for episode in buffer.episodes) == 701


def test_recipes_have_tables_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="no run below"):
        offline_summary.read(tmp_path, "last")
    (tmp_path / "x").mkdir()
    for seed, (steps, context) in enumerate([(1600, 20), (3000, 20), (3000, 100)]):
        recipe = Recipe(steps=steps, context=context)
        settings = Run(Path("x.npz"), "dt", seed, recipe).settings()
        result = {"settings": settings, "commit": "a1", "last": {"mean": 5.0 + seed, "score": None}}
        (tmp_path / "x" / f"{seed}.json").write_text(json.dumps(result))
    monkeypatch.setattr("sys.argv", ["offline_summary", "--out", str(tmp_path)])
    offline_summary.main()
    first, second = capsys.readouterr().out.split("\n\nwidth ")
    assert "steps 1600," in first
    assert "| dt | - | 5 (1 seed) | 5.0 | 1 |" in first
    assert "steps 3000," in second
    # Contexts can be compared: they are columns.
    assert "| x, context 100 | x, context 20 |" in second
    assert "| dt | - | 7 (1 seed) | 6 (1 seed) | 6.5 | 1 |" in second
    # A name that has stood for two networks.
    path = tmp_path / "x" / "2.json"
    result = json.loads(path.read_text())
    result["settings"]["fields"] = {"v_decay": 0.5}
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"dt must be one network in all runs, got .*v_decay"):
        offline_summary.read(tmp_path, "last")


def test_the_table_has_means_intervals_and_ratios() -> None:
    table = {
        "dt": {"a": [100.0, 100.0, 100.0], "b": [50.0, 50.0]},
        "x": {"a": [90.0, 110.0, 130.0], "b": [70.0, 70.0]},
    }
    # Two draws of three seeds, one of two: the middle 95 % reach from all lowest to all highest.
    expected = f"1.20 [{160 / 150:.2f}, {200 / 150:.2f}] (2 to 3 / 2 to 3 seeds)"
    assert offline_summary.ratio(table["x"], table["dt"]) == expected
    text = offline_summary.markdown(table, {"dt": {1200}, "x": {900, 1100, 1000}}).splitlines()
    assert text[2] == (
        "| dt | 1,200 | 100.0 [100.0, 100.0] (3) | 50.0 [50.0, 50.0] (2) | 75.0 | 1 |"
    )
    assert text[3] == (
        "| x | 900 to 1,100 | 110.0 [90.0, 130.0] (3) | 70.0 [70.0, 70.0] (2) | 90.0 | "
        f"{expected} |"
    )


def test_a_ratio_of_one_seed_has_no_interval() -> None:
    ratio = offline_summary.ratio
    assert ratio({"a": [71.0]}, {"a": [100.0]}) == "0.71 (1 / 1 seeds)"
    assert ratio({"a": [71.0]}, {"a": [90.0, 110.0]}) == "0.71 (1 / 2 seeds)"
    # One draw of two seeds on each side: 60 / 110 and 80 / 90 are a quarter of the draws each.
    assert ratio({"a": [60.0, 80.0]}, {"a": [90.0, 110.0]}) == "0.70 [0.55, 0.89] (2 / 2 seeds)"
    # The mean of the base is positive, a draw from it need not be.
    assert ratio({"a": [60.0, 80.0]}, {"a": [-1.0, 110.0]}) == "-"
    assert ratio({"a": [60.0]}, {"b": [50.0]}) == "-"


def test_fine_tuning_goes_on_from_an_offline_run(
    corridor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(finetune_online, "TESTED", 2)
    words = f"--runs {tmp_path} --dataset {corridor} --networks dsformer-pssa --seeds 7 "
    words += f"--rounds 2 --episodes 2 --updates 3 --buffer 100 --out {tmp_path / 'tuned'}"
    missing = "no finished run .*_c20_7, .*_c20_8; .* --networks dsformer-pssa --seeds 7 8 --conte"
    with pytest.raises(FileNotFoundError, match=missing):
        finetune_online.main([*words.split(), "--seeds", "7", "8"])
    run = Run(corridor, "dsformer-pssa", 7, RECIPE)
    Training(run, tmp_path, time.time() + 1e6).go()
    trained = checkpoint_of(run, tmp_path)
    offline_jitter.main(
        f"--runs {tmp_path} --dataset {corridor} --networks dsformer-pssa --seeds 7 --episodes 2 "
        "--changes 0.001 0.1 --noises 0 0.5".split()
    )
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| dsformer-pssa")]
    _, _, error, small, large, plain, noisy, _ = (cell.strip() for cell in line.split("|"))
    assert 0.0 < float(error) < 2.0
    assert 0.0 <= float(small) < float(large)
    assert plain.endswith("(2)")
    assert noisy.endswith("(2)")
    algo = finetune_online.reopened(trained, 1e-3)
    before = load_algorithm(trained, "cpu:0")
    for name, value in before.impl.modules.transformer.state_dict().items():
        torch.testing.assert_close(algo.impl.modules.transformer.state_dict()[name], value)
    # The schedule of the training has ended at a rate of 0, this one has not.
    rates = [group["lr"] for group in algo.impl.modules.optim._optim.param_groups]
    assert rates == [1e-3] * len(rates)

    finetune_online.main(words.split())
    result = json.loads((tmp_path / "tuned" / "corridor_20_dsformer-pssa_7.json").read_text())
    assert [len(entry["returns"]) for entry in result["rounds"]] == [2] * 3
    steps = [entry["env_steps"] for entry in result["rounds"]]
    assert steps[0] == 0 < steps[1] < steps[2]
    assert result["asked"] == pytest.approx(1.2)
    assert "| dsformer-pssa | " in capsys.readouterr().out
    assert result["settings"]["source"] == {
        "path": "corridor_20/dsformer-pssa_c20_7/model_16.d3",
        "sha256": hashlib.sha256(trained.read_bytes()).hexdigest(),
    }
    assert len(result["commits"]) == 1
    with pytest.raises(ValueError, match=r"other settings \(noise is 0.2, but was 0.1\)"):
        finetune_online.main([*words.split(), "--noise", "0.2"])
    with trained.open("ab") as file:  # as if it had been trained anew
        file.write(b"0")
    with pytest.raises(ValueError, match=r"other settings \(source is"):
        finetune_online.main(words.split())
    trained.unlink()
    with pytest.raises(FileNotFoundError, match="last checkpoint of a finished run"):
        finetune_online.main(words.split())


def test_fine_tuning_stops_in_time_and_leaves_claimed_runs(
    corridor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(corridor, "dt", 7, RECIPE)
    Training(run, tmp_path, time.time() + 1e6).go()
    words = f"--runs {tmp_path} --dataset {corridor} --networks dt --seeds 7 --buffer 100 "
    words += f"--rounds 1 --episodes 1 --updates 1 --out {tmp_path / 'tuned'}"
    capsys.readouterr()
    with claimed(tmp_path / "tuned" / "corridor_20_dt_7"):
        finetune_online.main(words.split())
    assert capsys.readouterr().out == ""
    finetune_online.main([*words.split(), "--minutes", "0"])
    assert capsys.readouterr().out == "corridor_20_dt_7: the time is over\n"
    # The time is over after the first evaluation, in the middle of a run.
    clock = itertools.count()
    times = SimpleNamespace(time=lambda: next(clock), perf_counter=time.perf_counter)
    monkeypatch.setattr(finetune_online, "time", times)
    played: list[int] = []

    def evaluate(*_: object) -> list[float]:
        played.append(1)
        return [0.0]

    monkeypatch.setattr(finetune_online, "evaluate", evaluate)
    finetune_online.main([*words.split(), "--minutes", str(1.5 / 60)])
    assert capsys.readouterr().out == "corridor_20_dt_7: the time is over\n"
    assert len(played) == 1
    assert not list((tmp_path / "tuned").glob("*.json"))


def checkpoint_of(run: Run, out: Path) -> Path:
    return run.folder(out) / f"model_{RECIPE.steps}.d3"


def test_the_buffer_begins_with_the_best_episodes(corridor: Path) -> None:
    task = Task.load(corridor, 5)
    chosen = finetune_online.best_episodes(task.buffer, 100)
    returns = [float(np.sum(episode.rewards)) for episode in chosen]
    assert returns == sorted(returns)
    assert sum(map(len, chosen)) <= 100
    assert len(finetune_online.best_episodes(task.buffer, 1)) == 1


def test_noise_is_what_the_context_remembers(corridor: Path) -> None:
    task = Task.load(corridor, 20)
    with quiet_logs():
        algo = make_config("dt", RECIPE, task.reward_scale).create("cpu:0")
        algo.create_impl((4,), 2)
        algo.config.observation_scaler.fit_with_trajectory_slicer(
            task.buffer.episodes, task.buffer.trajectory_slicer
        )
    quiet = offline_episodes.roll_out(algo, task.env, 2, 5, 1.0)
    again = offline_episodes.roll_out(algo, task.env, 2, 5, 1.0)
    noisy = offline_episodes.roll_out(algo, task.env, 2, 5, 1.0, noise=0.5)
    np.testing.assert_array_equal(quiet[0].actions, again[0].actions)
    assert np.abs(np.asarray(noisy[0].actions)).max() <= 1.0
    assert np.abs(noisy[0].actions[0] - quiet[0].actions[0]).max() > 1e-3
    assert sum(quiet[0].rewards) == offline_episodes.evaluate(algo, task.env, 2, 5, 1.0)[0]
    assert len(quiet[0].observations) == len(quiet[0].actions) == len(quiet[0].rewards)
