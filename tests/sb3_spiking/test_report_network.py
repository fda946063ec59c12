"""The part of each policy that a report counts is the one that acts, on what it acted on."""

from typing import Any

import numpy as np
import pytest
import torch

from sb3_spiking.acting import ActingNetwork
from sb3_spiking.saved.episodes import BATCH, Visit, batches
from tests.sb3_spiking.matrix import Cell, build, environment, make

CELLS = [
    Cell("TD3", "SpikingPopPolicy", "Box", "Box"),
    Cell("DDPG", "SpikingPopPolicy", "Box", "Box"),
    Cell("SAC", "SpikingPopPolicy", "Box", "Box"),
    Cell("TQC", "SpikingPopPolicy", "Box", "Box"),
    Cell("CrossQ", "SpikingPopPolicy", "Box", "Box"),
    Cell("PPO", "SpikingPopPolicy", "Discrete", "MultiDiscrete"),
    Cell("A2C", "SpikingPopPolicy", "Box", "Discrete"),
    Cell("TRPO", "SpikingPopPolicy", "Box", "Box"),
    Cell("MaskablePPO", "SpikingPopPolicy", "Box", "Discrete"),
    Cell("RecurrentPPO", "SpikingPopLstmPolicy", "Box", "Box"),
    Cell("DQN", "SpikingPopPolicy", "Box", "Discrete"),
    Cell("QRDQN", "SpikingPopPolicy", "Box", "Discrete"),
    Cell("ARS", "SpikingPopPolicy", "MultiBinary", "Box"),
    Cell("TD3", "SpikingPopMultiInputPolicy", "Dict", "Box"),
    Cell("PPO", "SpikingPopCnnPolicy", "image", "Discrete"),
    Cell("RecurrentPPO", "SpikingPopMultiInputLstmPolicy", "Dict", "Discrete"),
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_acting_network_is_what_predict_runs(cell: Cell) -> None:
    """Its values, finished as the algorithm does, are the actions of `predict`."""
    policy = build(cell).policy
    policy.set_training_mode(False)
    space = policy.observation_space
    space.seed(0)
    obs = [space.sample() for _ in range(8)]
    rows: Any = (
        {key: np.stack([row[key] for row in obs]) for key in obs[0]}
        if isinstance(obs[0], dict)
        else np.stack(obs)
    )
    network = ActingNetwork(policy).eval()
    states: tuple[torch.Tensor, ...] = ()
    kwargs: dict[str, Any] = {}
    if network.is_recurrent:
        rng = torch.Generator().manual_seed(0)
        layers, _, hidden = policy.lstm_hidden_state_shape
        states = tuple(torch.randn(layers, 8, hidden, generator=rng) for _ in range(2))
        kwargs = {"state": tuple(x.numpy() for x in states), "episode_start": np.zeros(8, bool)}
    with torch.no_grad():
        values = network(policy.obs_to_tensor(rows)[0], *states).numpy()
    expected, _ = policy.predict(rows, deterministic=True, **kwargs)
    np.testing.assert_allclose(finished(cell, policy, values), expected, rtol=1e-4, atol=1e-4)


def test_a_poisson_encoder_does_not_draw() -> None:
    """As in a deterministic `predict`, whose actions the counts and spikes are of."""
    env = environment("TD3", "Box", "Box")
    policy = make("TD3", env, policy_kwargs={"encoder": "poisson"}).policy
    policy.set_training_mode(False)
    space = policy.observation_space
    space.seed(0)
    rows = np.stack([space.sample() for _ in range(8)])
    network = ActingNetwork(policy).eval()
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(network(policy.obs_to_tensor(rows)[0]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    expected, _ = policy.predict(rows, deterministic=True)
    actual = finished(Cell("TD3", "", "Box", "Box"), policy, found[0].numpy())
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def finished(cell: Cell, policy: Any, values: Any) -> Any:
    if cell.algorithm == "QRDQN":
        values = values.reshape(8, policy.n_quantiles, -1).mean(axis=1)
    if cell.action == "Discrete":
        return values.argmax(axis=1)
    if cell.action == "MultiDiscrete":
        return np.stack([values[:, :3].argmax(axis=1), values[:, 3:].argmax(axis=1)], axis=1)
    low, high = policy.action_space.low, policy.action_space.high
    if cell.algorithm in ("SAC", "TQC", "CrossQ"):
        values = np.tanh(values)
    if cell.algorithm in ("TD3", "DDPG", "SAC", "TQC", "CrossQ"):
        return low + 0.5 * (values + 1.0) * (high - low)
    return np.clip(values, low, high)


def test_batches_hold_the_visits_in_order() -> None:
    count = BATCH + 3
    rows = np.arange(count * 2, dtype=np.float32).reshape(count, 1, 2)
    states = np.random.default_rng(0).normal(size=(count, 2, 1, 1, 5)).astype(np.float32)
    flat = list(batches(tuple(Visit(row, None, None) for row in rows)))
    assert [len(inputs) for inputs in flat] == [1, 1]
    assert torch.equal(torch.cat([obs for (obs,) in flat]), torch.from_numpy(rows[:, 0]))
    visits = tuple(
        Visit({"a": row, "b": -row}, (state[0], state[1]), None)
        for row, state in zip(rows, states, strict=True)
    )
    found = list(batches(visits))
    assert [len(obs["a"]) for obs, _, _ in found] == [BATCH, 3]
    assert torch.equal(torch.cat([obs["b"] for obs, _, _ in found]), torch.from_numpy(-rows[:, 0]))
    for i in range(2):
        joined = torch.cat([inputs[1 + i] for inputs in found], dim=1)  # [layers, B, H]
        assert torch.equal(joined[0], torch.from_numpy(states[:, i, 0, 0]))
