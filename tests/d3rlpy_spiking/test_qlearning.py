"""The encoder factory inside d3rlpy's Q-learning algorithms: training, files, learning."""

import warnings
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import onnxruntime
import pytest
import torch
from d3rlpy import algos
from d3rlpy.logging import FileAdapterFactory
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.preprocessing import StandardObservationScaler
from numpy.typing import NDArray
from torch import Tensor
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # torch's

from tests.common import run_python
from tests.d3rlpy_spiking.common import is_discrete, make_dataset
from tests.d3rlpy_spiking.qlearning import (
    SETTINGS,
    encoder_fields,
    make,
    networks,
    small_factory,
    train,
    trained,
)

# Configs with an encoder field that are no Q-learning algorithms: transformers.
TRANSFORMERS = {"DecisionTransformer", "DiscreteDecisionTransformer", "TACR"}
DENSE = VectorEncoderFactory([12])


def observations(batch: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(batch, 5)).astype(np.float32)


def predict(algo: Any) -> NDArray[Any]:
    """Actions; the algorithms that draw some draw the same."""
    d3rlpy.seed(3)
    actions: NDArray[Any] = algo.predict(observations())
    return actions


def spiking_parameters(algo: Any) -> dict[str, Tensor]:
    return {
        f"{network}.{name}": parameter.detach().clone()
        for network, module in networks(algo).items()
        for name, parameter in module.named_parameters()
        if ".body." in name
    }


def test_every_algorithm_with_an_encoder_is_tested() -> None:
    names = {
        name.removesuffix("Config")
        for name, config in vars(algos).items()
        if name.endswith("Config") and isinstance(config, type) and encoder_fields(config)
    }
    assert names - TRANSFORMERS == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_spiking_network_learns(name: str) -> None:
    d3rlpy.seed(0)
    start = make(name)
    start.build_with_dataset(make_dataset(is_discrete(start)))
    before, after = spiking_parameters(start), spiking_parameters(trained(name))
    assert len({key.split(".")[0] for key in after}) >= len(encoder_fields(type(start.config)))
    for key, value in after.items():
        assert torch.isfinite(value).all(), key
        assert not torch.equal(value, before[key]), key
    assert np.isfinite(predict(trained(name))).all()


def test_a_fresh_process_loads_every_file_and_predicts_the_same(tmp_path: Path) -> None:
    for name in SETTINGS:
        trained(name).save(str(tmp_path / f"{name}.d3"))
    np.save(tmp_path / "observations.npy", observations())
    code = f"""
import pathlib, numpy, torch, d3rlpy
torch.set_num_threads(1)
folder = pathlib.Path({str(tmp_path)!r})
try:
    d3rlpy.load_learnable(str(folder / "BC.d3"))
except KeyError as error:
    print("without:", error)
import d3rlpy_spiking
actions = {{}}
for name in {list(SETTINGS)}:
    algo = d3rlpy.load_learnable(str(folder / f"{{name}}.d3"))
    d3rlpy.seed(3)
    actions[name] = algo.predict(numpy.load(folder / "observations.npy"))
numpy.savez(folder / "actions.npz", **actions)
"""
    assert "without: 'population_spiking'" in run_python(code)
    loaded = np.load(tmp_path / "actions.npz")
    for name in SETTINGS:
        np.testing.assert_array_equal(loaded[name], predict(trained(name)), err_msg=name)


def test_parameters_of_a_run_rebuild_the_same_architecture(tmp_path: Path) -> None:
    factory = small_factory(neuron="lif", encoder_std=0.5, surrogate="arctan")
    algo = make("TD3PlusBC", actor_encoder_factory=factory, critic_encoder_factory=DENSE)
    algo.fit(
        make_dataset(False),
        n_steps=1,
        n_steps_per_epoch=1,
        logger_adapter=FileAdapterFactory(str(tmp_path)),
        show_progress=False,
    )
    (file,) = tmp_path.rglob("params.json")
    rebuilt = algos.TD3PlusBC.from_json(str(file))
    assert rebuilt.config == algo.config
    assert rebuilt.config.actor_encoder_factory == factory
    assert predict(rebuilt).shape == (16, 2)
    model = str(tmp_path / "model.pt")
    algo.save_model(model)
    rebuilt.load_model(model)
    np.testing.assert_array_equal(predict(rebuilt), predict(algo))


@pytest.mark.parametrize("name", ["TD3PlusBC", "IQL", "SAC"])
def test_spiking_actor_with_dense_critics(name: str) -> None:
    dense = {
        field: DENSE
        for field in encoder_fields(type(make(name).config))
        if not field.startswith("actor")
    }
    algo = make(name, **dense)
    d3rlpy.seed(0)
    train(algo)
    assert {key.split(".")[0] for key in spiking_parameters(algo)} == {"policy"}
    assert np.isfinite(predict(algo)).all()


def test_target_networks_follow() -> None:
    """Nothing but parameters is copied to them, and there is nothing else to copy."""
    algo = make("TD3", tau=1.0, update_actor_interval=1)
    train(algo, 1)
    for network in ("policy", "q_funcs"):
        source = getattr(algo.impl.modules, network).state_dict()
        target = getattr(algo.impl.modules, f"targ_{network}").state_dict()
        assert source.keys() == target.keys()
        assert all(torch.equal(source[key], target[key]) for key in source)


@pytest.mark.parametrize("name", ["BC", "SAC", "IQL", "DQN", "DiscreteBC"])
def test_exported_policies_act_as_the_algorithm(name: str, tmp_path: Path) -> None:
    algo = make(name, observation_scaler=StandardObservationScaler())
    d3rlpy.seed(0)
    train(algo)
    expected = predict(algo)
    x = torch.from_numpy(observations())
    script, onnx = str(tmp_path / "policy.pt"), str(tmp_path / "policy.onnx")

    def act(x: Tensor) -> Tensor:
        scaled = algo.config.observation_scaler.transform(x)
        result: Tensor = algo.impl.predict_best_action(scaled)
        return result

    with warnings.catch_warnings():
        # torch announces the end of torch.jit, which d3rlpy exports with. Other warnings fail.
        warnings.filterwarnings("ignore", r"`torch.jit.(trace|load)", DeprecationWarning)
        # d3rlpy's scaler asks a traced tensor whether it is built; its discrete policies make a
        # distribution, which checks its arguments.
        for module in (r"d3rlpy\.preprocessing", r"torch\.distributions"):
            warnings.filterwarnings("ignore", category=TracerWarning, module=module)
        algo.save_policy(script)
        policy: Any = torch.jit.load(script)
        algo.impl.modules.freeze()
        traced: Any = torch.jit.trace(act, x, check_trace=False)
    np.testing.assert_array_equal(policy(x).numpy(), expected)
    with warnings.catch_warnings():
        # torch points to its newer exporter, which does not take traced functions.
        warnings.simplefilter("ignore")
        torch.onnx.export(traced, (x,), onnx, opset_version=13, dynamo=False)
    session = onnxruntime.InferenceSession(onnx)
    (actions,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(actions, expected, atol=1e-6)


def test_broken_observations_give_no_plausible_action() -> None:
    x = observations()
    x[4, 2] = np.nan
    actions = trained("TD3PlusBC").predict(x)
    assert np.isnan(actions[4]).all()
    assert np.isfinite(np.delete(actions, 4, axis=0)).all()


def imitation_error(factory: Any, steps: int) -> float:
    """Mean squared error of BC's actions on recordings that it has not seen."""
    d3rlpy.seed(0)
    algo = make("BC", batch_size=64, encoder_factory=factory, learning_rate=1e-3)
    dataset = make_dataset(False, episodes=40)
    algo.build_with_dataset(dataset)
    for _ in range(steps):
        algo.update(dataset.sample_transition_batch(64))
    held_out = make_dataset(False, seed=1).episodes
    x = np.concatenate([episode.observations for episode in held_out])
    y = np.concatenate([episode.actions for episode in held_out])
    return float(np.square(algo.predict(x) - y).mean())


def test_it_learns_to_imitate() -> None:
    error = imitation_error(small_factory(hidden_units=[64, 64], encoder_pop_size=10), 300)
    constant = float(np.var(np.tanh(np.random.default_rng(2).normal(size=100_000))))
    assert error < 0.06 * constant
