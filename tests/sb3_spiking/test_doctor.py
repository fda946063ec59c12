"""`python -m sb3_spiking.doctor`: saved models, sound and broken."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from stable_baselines3 import DDPG, PPO, TD3
from stable_baselines3.common.env_util import make_vec_env

from policies.monitor import diagnose
from sb3_spiking.doctor import examine, main, table_of
from tests.sb3_spiking.test_callbacks import make

KWARGS = {"net_arch": [64, 48]}


@pytest.fixture(scope="module")
def trained() -> Any:
    model = TD3("SpikingPopPolicy", "Pendulum-v1", seed=0, policy_kwargs=dict(KWARGS))
    model.learn(600)
    return model


def check(
    model: Any, folder: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, str]:
    path = folder / "model.zip"
    model.save(path)
    code = main([str(path), "--env", "Pendulum-v1", "--steps", "400", *more])
    out, err = capsys.readouterr()
    return code, out, err


def copied(model: Any, folder: Path) -> Any:
    model.save(folder / "copy.zip")
    return TD3.load(folder / "copy.zip", env=gym.make("Pendulum-v1"))


def test_sound(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(trained, tmp_path, capsys)
    assert code == 0
    assert "no fault found" in out
    assert "actor.mu.encoder" in out


def test_dead_layer(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = copied(trained, tmp_path)
    with torch.no_grad():
        model.actor.mu.mlp.linears[1].bias -= 30.0
    code, out, _ = check(model, tmp_path, capsys)
    assert code == 1
    assert "dead_layer in actor.mu.mlp.neurons.1: 100% of its neurons never fire" in out
    assert "no fault found" not in out


def test_nan(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = copied(trained, tmp_path)
    with torch.no_grad():
        model.actor.mu.mlp.linears[0].weight[0, 0] = torch.nan
    code, out, _ = check(model, tmp_path, capsys)
    assert code == 1
    assert "nan in actor.mu.mlp.linears.0: NaN or infinity in" in out


def test_only_what_acts_or_judges_is_examined(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target network's fault is not the policy's."""
    model = copied(trained, tmp_path)
    with torch.no_grad():
        model.actor_target.mu.mlp.linears[1].bias -= 30.0
    assert check(model, tmp_path, capsys)[0] == 0


def test_a_seed_gives_the_same_table(trained: Any) -> None:
    env = make_vec_env("Pendulum-v1")
    first, second = (examine(trained.policy, env, 250, seed=3) for _ in range(2))
    assert [layer.firing_rate for layer in first.layers] == [
        layer.firing_rate for layer in second.layers
    ]
    assert diagnose(first) == []
    assert len(table_of(first).rows) == 4


def test_an_environments_error_is_no_fault_of_the_network(trained: Any) -> None:
    env: Any = make_vec_env("Pendulum-v1")

    def fail(_action: Any) -> Any:
        raise ValueError("the simulator is broken")

    env.step = fail
    with pytest.raises(ValueError, match="the simulator is broken"):
        examine(trained.policy, env, 200)


def test_a_recurrent_policy() -> None:
    model = make("RecurrentPPO")
    activity = examine(model.policy, model.get_env(), 100)
    assert len(activity.layers) == 2


def test_half_of_the_steps_are_chance() -> None:
    kwargs = {**KWARGS, "recipe": "popsan"}
    model = TD3("SpikingPopPolicy", "Pendulum-v1", seed=0, policy_kwargs=kwargs)
    env: Any = model.get_env()
    actions: list[float] = []
    step = env.step

    def seen(action: Any) -> Any:
        actions.append(abs(float(action.item())))
        return step(action)

    env.step = seen
    examine(model.policy, env, 400)
    assert len(actions) == 400
    # An untrained rate readout's actions stay near 0, chance goes up to 2.
    assert 60 < sum(action > 1 for action in actions) < 140
    assert max(actions[:200]) < 1


def test_a_policy_that_ignores_what_it_sees() -> None:
    model = PPO("SpikingPopPolicy", "Pendulum-v1", n_steps=64, batch_size=32, seed=0)
    with torch.no_grad():
        policy: Any = model.policy
        policy.action_net.weight.zero_()
    env = model.get_env()
    assert env is not None
    faults = [finding.fault for finding in diagnose(examine(model.policy, env, 300))]
    assert faults == ["deaf_readout"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.zip", "--env", "Pendulum-v1"], "missing.zip"),
        (["model.zip", "--env", "Pendulum-v1", "--steps", "50"], "--steps must be at least 100"),
        (["model.zip"], "pass --env"),
        (["model.zip", "--env", "NoSuchEnv-v0"], "NoSuchEnv"),
        (["model.zip", "--env", "CartPole-v1"], "not trained for CartPole-v1"),
        (["model.zip", "--env", "Pendulum-v1", "--algo", "sac"], "TD3 or DDPG"),
        (["dense.zip", "--env", "Pendulum-v1"], "dense policy"),
        (["text.zip", "--env", "Pendulum-v1"], "text.zip"),
    ],
)
def test_usage_errors(
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    trained.save("model.zip")
    DDPG("MlpPolicy", "Pendulum-v1").save("dense.zip")
    Path("text.zip").write_text("no model")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert out == ""
