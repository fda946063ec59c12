"""Options that only actors have: every algorithm trains with them or refuses them by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.actor import PopulationBody
from sb3_spiking.acting import ActingNetwork
from tests.sb3_spiking import matrix

WITHOUT_ACTOR = ("DQN", "QRDQN")
WITH_ACTOR = sorted(set(matrix.ALGORITHMS) - set(WITHOUT_ACTOR))
SMALL: dict[str, Any] = {"net_arch": [8], "decoder_pop_size": 4}


def make(algorithm: str, **options: Any) -> Any:
    env = matrix.environment(algorithm, "Box", matrix.action_spaces(algorithm)[0])
    return matrix.make(
        algorithm, env, next(iter(matrix.policies(algorithm))), policy_kwargs=options
    )


def bodies(model: Any) -> list[PopulationBody]:
    return [module for module in model.policy.modules() if isinstance(module, PopulationBody)]


@pytest.mark.parametrize("algorithm", WITH_ACTOR)
def test_intra_layer_trains_saves_and_loads(algorithm: str, tmp_path: Path) -> None:
    model = make(algorithm, intra_layer=True, **SMALL)
    (body,) = ActingNetwork(model.policy).spiking_bodies()
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    model.learn(40)
    (body,) = ActingNetwork(model.policy).spiking_bodies()
    for name in ("mlp.intra_layer.weight", "mlp.intra_layer.bias"):
        assert not body.state_dict()[name].equal(before[name]), name
    model.save(tmp_path / "model")
    loaded = matrix.ALGORITHMS[algorithm].load(tmp_path / "model")
    obs = np.random.default_rng(0).uniform(-1, 1, (40, *model.observation_space.shape))
    expected, _ = model.predict(obs.astype(np.float32), deterministic=True)
    found, _ = loaded.predict(obs.astype(np.float32), deterministic=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "PPO", "TQC"])
def test_spiking_critics_have_no_intra_layer(algorithm: str) -> None:
    model = make(algorithm, intra_layer=True, spiking_critic=True, **SMALL)
    (actor,) = ActingNetwork(model.policy).spiking_bodies()
    assert actor.mlp.intra_layer is not None
    connected = [body for body in bodies(model) if body.mlp.intra_layer is not None]
    assert len(connected) == (2 if algorithm == "TD3" else 1)  # TD3's target is an actor, too
    assert len(bodies(model)) > len(connected)


@pytest.mark.parametrize("algorithm", WITHOUT_ACTOR)
def test_intra_layer_is_refused_where_there_is_no_actor(algorithm: str) -> None:
    with pytest.raises(ValueError, match="intra_layer=True connects the output neurons of an act"):
        make(algorithm, intra_layer=True)


@pytest.mark.parametrize("algorithm", ["TD3", "SAC", "PPO"])
def test_event_driven_policies_act_alike(algorithm: str) -> None:
    pytest.importorskip("numba")
    model = make(algorithm, intra_layer=True, **SMALL)
    frozen = model.policy.to_event_driven()
    obs = np.random.default_rng(0).uniform(-1, 1, (40, *model.observation_space.shape))
    batched, _ = model.predict(obs.astype(np.float32), deterministic=True)
    assert np.ptp(batched) > 0
    for row, action in zip(obs.astype(np.float32), batched, strict=True):
        np.testing.assert_array_equal(frozen.predict(row)[0], action)
        np.testing.assert_array_equal(model.predict(row, deterministic=True)[0], action)
