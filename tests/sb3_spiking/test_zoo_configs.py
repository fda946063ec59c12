"""The project's own hyperparameter files."""

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml

pytest.importorskip("rl_zoo3")

from rl_zoo3 import ALGOS  # after the check

from policies.actor import PopulationBody
from sb3_spiking import registry
from sb3_spiking.zoo_search import read_policy_kwargs
from tests.common import ROOT

FILES = sorted((ROOT / "zoo_configs").glob("*.yml"))
NAMES = {"td3", "ddpg", "sac", "tqc", "ppo", "a2c", "dqn", "qrdqn", "trpo", "crossq", "ppo_lstm"}


def entries() -> list[Any]:
    found = []
    for file in FILES:
        for env, entry in yaml.safe_load(file.read_text()).items():
            found.append(pytest.param(file.stem, env, entry, id=f"{file.stem}-{env}"))
    return found


def test_there_is_a_file_for_each_algorithm() -> None:
    assert {file.stem for file in FILES} == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_entry_says_what_shows_it(file: Path) -> None:
    text = file.read_text()
    environments = list(yaml.safe_load(text))
    assert environments == list(dict.fromkeys(environments))
    for env in environments:
        found = re.search(rf"((?:^# .*\n)+)^{re.escape(env)}:", text, re.MULTILINE)
        assert found is not None, env
        comment = found.group(1)
        if re.search("# (inherited|chosen), not run", comment) is None:
            # The run that shows it: its command with the environment, seeds and returns.
            assert re.search(rf"# (tuned|run): python -m .* --envs? {env} ", comment), env
            assert re.search(r"seeds? [\d, and]+: -?\d", comment), env


@pytest.mark.parametrize(("algo", "env_id", "entry"), entries())
def test_each_entry_builds_its_policy(algo: str, env_id: str, entry: dict[str, Any]) -> None:
    kwargs = read_policy_kwargs(entry.get("policy_kwargs", {}))
    names = registry.RECURRENT if algo == "ppo_lstm" else registry.FEED_FORWARD
    assert entry["policy"] in names
    assert entry["n_timesteps"] > 0
    env = gym.make(env_id)
    policy_class = ALGOS[algo].policy_aliases[entry["policy"]]
    policy = policy_class(env.observation_space, env.action_space, lambda _: 1e-3, **kwargs)
    assert any(isinstance(module, PopulationBody) for module in policy.modules())
