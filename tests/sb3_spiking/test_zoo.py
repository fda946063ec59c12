"""RL Zoo: its commands, its installed hyperparameter files, its search."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gymnasium import spaces

pytest.importorskip("rl_zoo3")

import optuna  # after the check
import rl_zoo3.train
from optuna.storages.journal import JournalFileBackend
from rl_zoo3 import ALGOS, exp_manager

from policies.actor import PopulationBody
from sb3_spiking import zoo, zoo_search
from sb3_spiking.callbacks import SpikeMonitorCallback
from tests.common import run_module
from tests.sb3_spiking.envs import ACTION, BOX, DICT, IMAGE

FILES = Path(exp_manager.__file__).parent / "hyperparams"
# Steps enough for one update with the file's settings, where that is quick.
RUNS = {
    "a2c": ("CartPole-v1", 80),
    "ars": ("CartPole-v1", 300),
    "crossq": ("Pendulum-v1", 110),
    "ddpg": ("Pendulum-v1", 110),
    "dqn": ("CartPole-v1", 1030),
    "ppo": ("CartPole-v1", 256),
    "ppo_lstm": ("CartPoleNoVel-v1", 256),
    "qrdqn": ("CartPole-v1", 1030),
    "sac": ("Pendulum-v1", 110),
    "td3": ("Pendulum-v1", 110),
    "tqc": ("Pendulum-v1", 110),
    "trpo": ("CartPole-v1", 1024),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a zoo command in this process, logs below tmp_path."""
    original = rl_zoo3.train.ExperimentManager  # type: ignore[attr-defined]  # not exported
    monkeypatch.setitem(vars(rl_zoo3.train), "ExperimentManager", original)

    def call(command: str, *args: str) -> Path:
        line = ["zoo", command, "-f", str(tmp_path), "--device", "cpu", *args]
        monkeypatch.setattr(sys, "argv", line)
        zoo.main()
        return tmp_path

    return call


def load(logs: Path, algo: str, env: str, run_id: int = 1) -> Any:
    return ALGOS[algo].load(logs / algo / f"{env}_{run_id}" / f"{env}.zip", device="cpu")


def test_every_algorithm_of_the_zoo_is_run() -> None:
    assert set(RUNS) == set(ALGOS)


@pytest.mark.parametrize("algo", sorted(RUNS))
def test_installed_files_train_a_spiking_policy(algo: str, run: Any) -> None:
    env, steps = RUNS[algo]
    logs = run("train", "--algo", algo, "--env", env, "-n", str(steps), "--eval-freq", "-1")
    model = load(logs, algo, env)
    assert any(isinstance(module, PopulationBody) for module in model.policy.modules())
    saved = (logs / algo / f"{env}_1" / env / "config.yml").read_text()
    assert "SpikingPop" in saved
    assert "Mlp" not in saved


@pytest.mark.parametrize("line", [None, "plain", "settings"])
def test_training_is_watched_once(
    line: str | None, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SpikeMonitorCallback] = []
    start = SpikeMonitorCallback._on_training_start

    def counted(self: SpikeMonitorCallback) -> None:
        seen.append(self)
        start(self)

    monkeypatch.setattr(SpikeMonitorCallback, "_on_training_start", counted)
    name = "sb3_spiking.callbacks.SpikeMonitorCallback"
    callback = {None: None, "plain": name, "settings": [{name: {"every": 77}}]}[line]
    entry: dict[str, Any] = {"policy": "MlpPolicy", "n_timesteps": 64, "n_steps": 32}
    if callback is not None:
        entry["callback"] = callback
    file = tmp_path / "a2c.yml"
    file.write_text(yaml.safe_dump({"CartPole-v1": entry}))
    run("train", "--algo", "a2c", "--env", "CartPole-v1", "--eval-freq", "-1", "-conf", str(file))
    (monitor,) = seen
    assert monitor.every == (77 if line == "settings" else 2000)


def entries() -> list[Any]:
    found = []
    for algo in sorted(RUNS):
        for env, entry in yaml.safe_load((FILES / f"{algo}.yml").read_text()).items():
            found.append(pytest.param(algo, entry, id=f"{algo}-{env}"))
    return found


@pytest.mark.parametrize(("algo", "entry"), entries())
def test_each_installed_entry_builds_its_policy(algo: str, entry: dict[str, Any]) -> None:
    """Every policy name and every keyword that the files use."""
    name = zoo.spiking_name(entry["policy"])
    kwargs = zoo_search.read_policy_kwargs(entry.get("policy_kwargs", {}))
    # Narrow layers: names and structure are at stake.
    if "net_arch" in kwargs:
        arch = kwargs["net_arch"]
        kwargs["net_arch"] = (
            {key: [4] * len(sizes) for key, sizes in arch.items()}
            if isinstance(arch, dict)
            else [4] * len(arch)
        )
    obs = IMAGE if "Cnn" in name else DICT if "MultiInput" in name else BOX
    if "Cnn" in name:
        obs = spaces.Box(0, 255, (3, 36, 36), obs.dtype)  # type: ignore[arg-type]
    action = spaces.Discrete(2) if algo in ("dqn", "qrdqn") else ACTION
    policy_class = ALGOS[algo].policy_aliases[name]
    rate: list[Any] = [] if algo == "ars" else [lambda _: 1e-3]
    policy = policy_class(obs, action, *rate, **kwargs)
    assert any(isinstance(module, PopulationBody) for module in policy.modules())


def test_train_enjoy_and_resume(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--algo", "td3", "--env", "Pendulum-v1")
    short = ("-n", "120", "--eval-freq", "-1", "-params", "learning_starts:20")
    logs = run("train", *common, *short, "--save-replay-buffer")
    run("enjoy", *common, "--no-render", "-n", "210")
    assert "Mean reward" in capsys.readouterr().out
    file = logs / "td3" / "Pendulum-v1_1" / "Pendulum-v1.zip"
    run("train", *common, *short, "-i", str(file))
    out = capsys.readouterr().out
    assert "Loading pretrained agent" in out
    assert "Loading replay buffer" in out
    resumed = load(logs, "td3", "Pendulum-v1", 2)
    assert any(isinstance(module, PopulationBody) for module in resumed.actor.modules())
    assert resumed._n_updates > load(logs, "td3", "Pendulum-v1")._n_updates


@pytest.mark.parametrize(
    "args",
    [
        ["--gym-packages", "sb3_spiking", "-params", "policy:'SpikingPopPolicy'"],
        ["-params", "policy:'sb3_spiking.SpikingPopPolicy'"],
    ],
    ids=["gym_packages", "dotted"],
)
@pytest.mark.parametrize("algo", ["ddpg", "a2c"])
def test_plain_rl_zoo(algo: str, args: list[str], tmp_path: Path) -> None:
    common = ["--algo", algo, "--env", "Pendulum-v1", "-n", "110", "--eval-freq", "-1"]
    run_module("rl_zoo3.train", *common, "-f", str(tmp_path), "--device", "cpu", *args)
    policy = load(tmp_path, algo, "Pendulum-v1").policy
    assert any(isinstance(module, PopulationBody) for module in policy.modules())


@pytest.mark.parametrize("algo", ["td3", "crossq", "a2c"])
def test_search(algo: str, run: Any, tmp_path: Path) -> None:
    """The user's policy_kwargs stay, the rest of the spiking settings is searched."""
    common = ["--algo", algo, "--env", "Pendulum-v1", "-n", "64", "--eval-freq", "-1"]
    search = ["-optimize", "--n-trials", "2", "--n-startup-trials", "1", "--n-evaluations", "1"]
    search += ["--eval-episodes", "1", "--no-optim-plots", "--study-name", "s"]
    fixed = ["-params", "policy_kwargs:dict(spike_steps=3, neuron='lif', net_arch=[12])"]
    fixed += ["n_envs:1"]
    storage = str(tmp_path / "study.log")
    seen: list[dict[str, Any]] = []
    algorithm = ALGOS[algo]

    class Watched(algorithm):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            seen.append(dict(kwargs["policy_kwargs"]))
            super().__init__(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALGOS, algo, Watched)
        run("train", *common, *search, "--storage", storage, *fixed)
    assert len(seen) == 2
    assert all(kwargs["spike_steps"] == 3 and kwargs["neuron"] == "lif" for kwargs in seen)
    assert seen[0]["v_decay"] != seen[1]["v_decay"]
    assert all(kwargs["net_arch"] == [12] for kwargs in seen)

    backend = JournalFileBackend(storage)
    trial = optuna.load_study(
        study_name="s", storage=optuna.storages.JournalStorage(backend)
    ).trials[1]
    assert "spiking_spike_steps" not in trial.params
    assert "spiking_i_decay" not in trial.params  # a LIF neuron has none
    assert "spiking_v_decay" in trial.params
    assert "tau" not in trial.params or algo != "crossq"

    again = [*common, "--storage", storage, "--study-name", "s", "--trial-id", "1"]
    for run_id, typed in ((2, fixed), (3, [])):
        logs = run("train", *again, *typed)
        policy = load(logs, algo, "Pendulum-v1", run_id).policy
        assert policy.options.v_decay == trial.params["spiking_v_decay"]
        assert policy.options.spike_steps == (3 if typed else 5)
        assert (policy.net_arch == [12]) == bool(typed)


def test_a_trial_id_without_a_study_is_ignored(run: Any) -> None:
    """As by RL Zoo itself."""
    short = ("-n", "30", "--eval-freq", "-1", "--trial-id", "1")
    logs = run("train", "--algo", "td3", "--env", "Pendulum-v1", *short)
    assert load(logs, "td3", "Pendulum-v1").policy.net_arch == [400, 300]


def test_a_files_settings_stay_under_a_trials(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.yml"
    file.write_text(
        "Pendulum-v1:\n  n_timesteps: 50\n  policy: MlpPolicy\n"
        '  policy_kwargs: "dict(spike_steps=3, net_arch=[8])"\n'
    )
    common = ["--algo", "sac", "--env", "Pendulum-v1", "--eval-freq", "-1", "-conf", str(file)]
    common += ["--storage", str(tmp_path / "study.log"), "--study-name", "s"]
    search = ["-optimize", "--n-trials", "2", "--n-startup-trials", "1", "--n-evaluations", "1"]
    run("train", *common, *search, "--eval-episodes", "1", "--no-optim-plots")
    policy = load(run("train", *common, "--trial-id", "1"), "sac", "Pendulum-v1", 2).policy
    assert policy.options.spike_steps == 3
    assert policy.net_arch != [8]  # RL Zoo's search covers it


@pytest.mark.parametrize("algo", sorted(RUNS))
def test_nothing_without_effect_is_searched(algo: str) -> None:
    trial: Any = optuna.trial.FixedTrial(
        {
            "spiking_spike_steps": 3, "spiking_encoder_pop_size": 6, "spiking_v_decay": 0.5,
            "spiking_decoder_pop_size": 7, "spiking_value_pop_size": 64, "spiking_i_decay": 0.4,
            "spiking_surrogate_width": 1.5, "spiking_actor_lr_scale": 0.2,
        }
    )  # fmt: skip
    found = set(zoo_search.suggest(trial, algo, {}))
    assert ("decoder_pop_size" in found) != (algo in ("dqn", "qrdqn"))
    assert ("value_pop_size" in found) == (algo in ("dqn", "qrdqn"))
    assert ("actor_lr_scale" in found) == (algo not in ("trpo", "ars"))
    assert ("surrogate_width" in found) == (algo != "ars")
    assert "value_pop_size" in zoo_search.suggest(trial, algo, {"spiking_critic": True})
    # Neurons of the "counting" recipe have no current that decays.
    for fixed, searched in (
        ({}, True),
        ({"recipe": "popsan"}, True),
        ({"recipe": "counting", "neuron": "current_lif"}, True),
        ({"recipe": "counting"}, False),
        ({"neuron": "lif"}, False),
    ):
        assert ("i_decay" in zoo_search.suggest(trial, algo, fixed)) == searched


def test_a_dense_agent_is_not_continued(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    common = ["--algo", "td3", "--env", "Pendulum-v1", "-n", "30", "--eval-freq", "-1"]
    monkeypatch.setattr(sys, "argv", ["train", "-f", str(tmp_path / "dense"), *common])
    rl_zoo3.train.train()
    file = tmp_path / "dense" / "td3" / "Pendulum-v1_1" / "Pendulum-v1.zip"
    with pytest.raises(ValueError, match=r"holds a dense policy, TD3Policy: continue it with"):
        run("train", *common, "-i", str(file))


@pytest.mark.parametrize("algo", ["trpo", "ars"])
def test_normalized_environments_have_no_bounds(algo: str, run: Any) -> None:
    env, steps = ("MountainCar-v0", "1024") if algo == "trpo" else ("Pendulum-v1", "400")
    settings = ["-params", "n_envs:1", "normalize:True"]
    logs = run("train", "--algo", algo, "--env", env, "-n", steps, "--eval-freq", "-1", *settings)
    assert load(logs, algo, env).policy.options.normalize_obs is False


def test_a_policy_without_counterpart_is_named(run: Any) -> None:
    with pytest.raises(ValueError, match=r"names the policy 'my.Policy'.*SpikingPopPolicy"):
        run("train", "--algo", "td3", "--env", "Pendulum-v1", "-params", "policy:'my.Policy'")
    assert zoo.spiking_name("sb3_spiking.SpikingPopPolicy") == "SpikingPopPolicy"


def test_unknown_commands_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", "fly"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "enjoy" in capsys.readouterr().err


def test_a_file_of_spiking_policies_has_no_dense_one(tmp_path: Path) -> None:
    file = tmp_path / "td3.yml"
    file.write_text("Pendulum-v1: {n_timesteps: 20, policy: SpikingPopPolicy}")
    line = ["train", "--dense", "--algo", "td3", "--env", "Pendulum-v1", "-conf", str(file)]
    with pytest.raises(AssertionError, match="it names 'SpikingPopPolicy'; choose another with"):
        run_module("sb3_spiking.zoo", *line, "-f", str(tmp_path))
