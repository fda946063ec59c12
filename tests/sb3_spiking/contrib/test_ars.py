from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib.common.vec_env import AsyncEval
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from tests.sb3_spiking import matrix

OBS = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)


def make(env: Any = "CartPole-v1", **kwargs: Any) -> Any:
    return matrix.make("ARS", env, **kwargs)


def tensors(model: Any) -> torch.Tensor:
    """All numbers of the network that can be searched."""
    network = model.policy.action_net
    return nn.utils.parameters_to_vector(
        [network.get_buffer(name) for name in model.policy._tensors]
    )


@pytest.mark.parametrize("zero_policy", [True, False])
def test_the_search_starts_at_the_random_network(zero_policy: bool) -> None:
    model = make(zero_policy=zero_policy)
    assert torch.equal(model.weights, torch.zeros_like(model.weights))
    assert torch.equal(tensors(model), model.policy.start)
    assert model.policy.start.abs().sum() > 0
    assert [name for name, _ in model.policy.named_parameters()] == ["change"]
    assert model.n_params == 4 * 4 * 2 + (16 * 10 + 10) + (10 * 6 + 6) + (2 * 3 + 2)


def test_a_vector_is_a_change_of_every_number() -> None:
    model = make()
    vector = np.random.default_rng(1).standard_normal(model.n_params).astype(np.float32)
    for _ in range(2):  # not a sum of changes
        model.policy.load_from_vector(vector)
        expected = model.policy.start + torch.from_numpy(vector)
        torch.testing.assert_close(tensors(model), expected, rtol=0, atol=0)


def test_in_several_processes() -> None:
    env = make_vec_env("CartPole-v1", 1)
    model = make(env)
    functions = [lambda: make_vec_env("CartPole-v1", 1) for _ in range(2)]
    workers = AsyncEval(functions, model.policy)
    model.learn(300, async_eval=workers)
    assert model._n_updates > 0
    assert model.policy.change.abs().sum() > 0


def test_what_ars_cannot_do_is_named() -> None:
    with pytest.raises(ValueError, match="leave out with_bias=False"):
        make(policy_kwargs={"with_bias": False})
    with pytest.raises(ValueError, match="use 'deterministic' or 'analog'"):
        make(policy_kwargs={"encoder": "poisson"})
    with pytest.raises(ValueError, match=r"use normalize_obs='bounds', or VecNormalize"):
        make(policy_kwargs={"normalize_obs": True})
    with pytest.raises(ValueError, match="leave out spiking_critic"):
        make(policy_kwargs={"spiking_critic": True})


@pytest.mark.parametrize("squash", [True, False])
def test_bounded_actions(squash: bool, tmp_path: Path) -> None:
    model = make("Pendulum-v1", policy_kwargs={"squash_output": squash})
    action, _ = model.predict(100.0 * OBS[:, :3])
    assert np.abs(action).max() <= 2.0
    model.policy.action_net.decoder.bias.fill_(0.5)
    model.policy.action_net.decoder.weight.zero_()
    action, _ = model.predict(OBS[:, :3])
    np.testing.assert_allclose(action, 2 * np.tanh(0.5) if squash else 0.5, rtol=1e-6)
    model.policy.save(str(tmp_path / "policy"))
    policy = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    np.testing.assert_array_equal(action, policy.predict(OBS[:, :3])[0])
