"""Algorithms, names and keywords that do not go together say so."""

import subprocess
import sys
from typing import Any

import pytest

from tests.common import run_python
from tests.sb3_spiking import matrix


def make(algorithm: str, policy: str = "SpikingPopPolicy", **kwargs: Any) -> Any:
    env = matrix.environment(algorithm, "Box", matrix.action_spaces(algorithm)[0])
    return matrix.make(algorithm, env, policy, **kwargs)


@pytest.mark.parametrize("algorithm", sorted(set(matrix.ALGORITHMS) - {"RecurrentPPO"}))
@pytest.mark.parametrize("kind", ["", "MultiInput", "Cnn"])
def test_memory_is_recurrent_ppos(algorithm: str, kind: str) -> None:
    remedy = f"use 'SpikingPop{kind}Policy', or RecurrentPPO"
    with pytest.raises(ValueError, match=f"{algorithm}.* keeps no.*{remedy}"):
        make(algorithm, f"SpikingPop{kind}LstmPolicy")


@pytest.mark.parametrize(
    ("algorithm", "policy", "message"),
    [
        ("CrossQ", "SpikingPopMultiInputPolicy", "use SAC or TQC"),
        ("ARS", "SpikingPopMultiInputPolicy", "flat observations only: use another algorithm"),
        ("ARS", "SpikingPopCnnPolicy", "flat observations only: use another algorithm"),
        ("CrossQ", "dict", "use SAC or TQC"),
        ("ARS", "dict", "use another algorithm"),
        ("ARS", "image", "use another algorithm"),
        ("TRPO", "dict", "use 'SpikingPopMultiInputPolicy'"),
        ("TRPO", "image", "use 'SpikingPopCnnPolicy'"),
        ("TQC", "SpikingPopMultiInputPolicy", "takes Dict observations.*use 'SpikingPopPolicy'"),
        ("RecurrentPPO", "SpikingPopMultiInputLstmPolicy", "use 'SpikingPopPolicy'"),
    ],
)
def test_names(algorithm: str, policy: str, message: str) -> None:
    observation = {"dict": "Dict", "image": "image"}.get(policy, "Box")
    name = "SpikingPopPolicy" if observation != "Box" else policy
    env = matrix.environment(algorithm, observation, matrix.action_spaces(algorithm)[0])
    with pytest.raises(ValueError, match=message):
        matrix.make(algorithm, env, name)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "TRPO", "RecurrentPPO", "MaskablePPO"])
def test_poisson_is_refused_on_policy(algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"draws anew.*use 'deterministic' or 'analog'"):
        make(algorithm, policy_kwargs={"encoder": "poisson"})


def test_a_spiking_critic_in_crossq_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch renormalization.*use SAC"):
        make("CrossQ", policy_kwargs={"spiking_critic": True})


@pytest.mark.parametrize("first", ["SAC", "TQC", "CrossQ"])
def test_a_reused_dict_is_named(first: str) -> None:
    kwargs: dict[str, Any] = {"spike_steps": 3}
    env = matrix.environment(first, "Box", "Box")
    algorithm = matrix.ALGORITHMS
    algorithm[first]("SpikingPopPolicy", env, policy_kwargs=kwargs, buffer_size=10)
    with pytest.raises(TypeError, match=r"write it into the dict.*policy_kwargs=dict\(kwargs\)"):
        algorithm["TD3"]("SpikingPopPolicy", env, policy_kwargs=kwargs, buffer_size=10)
    algorithm["TD3"]("SpikingPopPolicy", env, policy_kwargs={"spike_steps": 3}, buffer_size=10)


def test_ddpgs_dict_in_ppo_is_named() -> None:
    kwargs: dict[str, Any] = {"spike_steps": 3}
    env = matrix.environment("DDPG", "Box", "Box")
    matrix.ALGORITHMS["DDPG"]("SpikingPopPolicy", env, policy_kwargs=kwargs, buffer_size=10)
    with pytest.raises(TypeError, match="DDPG writes it"):
        matrix.ALGORITHMS["PPO"]("SpikingPopPolicy", env, policy_kwargs=kwargs)


@pytest.mark.parametrize("algorithm", list(matrix.ALGORITHMS))
def test_a_mistyped_keyword_is_named(algorithm: str) -> None:
    with pytest.raises(TypeError, match=r"unknown keyword 'spike_step'.*'spike_steps'"):
        make(algorithm, policy_kwargs={"spike_step": 3})
    with pytest.raises(TypeError, match=r"unknown keyword 'net_arhc'.*'net_arch'"):
        make(algorithm, policy_kwargs={"net_arhc": [3]})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"value_gain": 0.0}, ValueError, "value_gain must be in"),
        ({"value_pop_size": 0}, ValueError, "value_pop_size must be at least 1"),
        ({"spiking_critic": 1}, TypeError, "spiking_critic must be True or False"),
    ],
)
def test_bad_values(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make("SAC", policy_kwargs=options)


def test_without_contrib_the_rest_works() -> None:
    out = run_python(
        "import sys\n"
        "from importlib import util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'sb3_contrib' else find(name)\n"
        "import sb3_spiking\n"
        "from stable_baselines3 import DQN\n"
        "print('SpikingPopPolicy' in DQN.policy_aliases, 'sb3_contrib' in sys.modules)\n"
    )
    assert out.split() == ["True", "False"]


def test_the_zoo_without_rl_zoo3_names_the_extra() -> None:
    code = "import sys\nsys.modules['rl_zoo3'] = None\nimport sb3_spiking.zoo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install 'spiking-policies[zoo]'" in done.stderr
