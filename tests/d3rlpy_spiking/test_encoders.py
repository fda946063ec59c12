"""The encoder factory on its own: networks, fields, refusals, exported files."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from d3rlpy.models.torch.encoders import compute_output_size
from torch import Tensor, nn

from d3rlpy_spiking import PopulationSpikingEncoderFactory
from d3rlpy_spiking.encoders import squeeze
from tests.d3rlpy_spiking.qlearning import small_factory


def observations(batch: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(batch, 5, generator=torch.Generator().manual_seed(seed))


def actions(batch: int = 64, seed: int = 1) -> Tensor:
    return torch.rand(batch, 2, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def make(**changes: Any) -> Any:
    torch.manual_seed(0)
    return small_factory(**changes).create((5,)).eval()


def make_with_action(discrete: bool = False, **changes: Any) -> Any:
    torch.manual_seed(0)
    return small_factory(**changes).create_with_action((5,), 2, discrete).eval()


@pytest.mark.parametrize("decoder", ["rate", "membrane"])
def test_features_are_the_activity_of_the_last_layer(decoder: str) -> None:
    network = make(decoder=decoder, feature_gain=3.0)
    x = observations()
    spikes = network.body.spikes(squeeze(x, 3.0))
    activity = spikes.mean(dim=0) if decoder == "rate" else spikes.sum(dim=0)
    features = network(x)
    torch.testing.assert_close(features, 3.0 * activity)
    assert features.shape == (64, 8)
    assert 0.0 < features.detach().mean()


def test_default_rates_lie_between_0_and_the_gain_and_depend_on_the_observation() -> None:
    torch.manual_seed(0)
    factory = PopulationSpikingEncoderFactory()
    with torch.no_grad():
        features = factory.create((5,))(observations()) / factory.feature_gain
    assert 0.0 <= features.min()
    assert features.max() <= 1.0
    silent = (features == 0.0).all(dim=0).float().mean()
    assert silent < 0.2
    assert 0.02 < features.mean() < 0.5
    assert len(features.unique(dim=0)) == 64


def test_d3rlpy_measures_the_number_of_features() -> None:
    assert compute_output_size([(5,)], make()) == 8
    assert compute_output_size([(5,), (2,)], make_with_action()) == 8


def test_nothing_but_parameters_is_state() -> None:
    assert list(make().buffers()) == []
    network, x = make(), observations()
    with torch.no_grad():
        first = network(x)
        network.train()(observations(7, seed=3))
        assert torch.equal(network.eval()(x), first)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    x, others = observations(8), observations(8, seed=5)
    others[3] = x[3]
    a, action = actions(8), actions(8, seed=6)
    action[3] = a[3]
    with torch.no_grad():
        assert torch.equal(make()(x)[3], make()(others)[3])
        assert torch.equal(make_with_action()(x, a)[3], make_with_action()(others, action)[3])
        torch.testing.assert_close(make()(x)[3:4], make()(x[3:4]))


@pytest.mark.parametrize("encoder", ["deterministic", "poisson", "analog"])
@pytest.mark.parametrize("neuron", ["current_lif", "lif"])
def test_every_parameter_gets_a_gradient(neuron: str, encoder: str) -> None:
    network = make_with_action(neuron=neuron, encoder=encoder).train()
    network(observations(), actions()).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0.0, name


def test_the_gradient_reaches_the_action() -> None:
    action = actions().requires_grad_()
    make_with_action()(observations(), action).sum().backward()
    assert action.grad is not None
    assert (action.grad != 0.0).any(dim=0).all()


def test_integer_actions_are_one_hot() -> None:
    index = torch.tensor([0, 1, 1, 0])
    hot = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    network, x = make_with_action(discrete=True), observations(4)
    with torch.no_grad():
        expected = make_with_action()(x, hot)
        assert torch.equal(network(x, index), expected)
        assert torch.equal(network(x, index.view(4, 1).float()), expected)
        assert not torch.equal(network(x, 1 - index), expected)


def test_poisson_draws_in_training_only() -> None:
    network, x = make(encoder="poisson"), observations()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))
        assert torch.equal(network.eval()(x), make()(x))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_broken_samples_come_out_nan_and_the_others_as_they_were(broken: float) -> None:
    x, a = observations(6), actions(6)
    with torch.no_grad():
        sound, sound_pair = make()(x), make_with_action()(x, a)
        x[2, 1] = broken
        features, pair = make()(x), make_with_action()(x, a)
        x[2, 1], a[2, 1] = 0.0, broken
        by_action = make_with_action()(x, a)
    others = [0, 1, 3, 4, 5]
    for result, expected in ((features, sound), (pair, sound_pair), (by_action, sound_pair)):
        assert result[2].isnan().all()
        assert torch.equal(result[others], expected[others])


def test_broken_weights_come_out_nan() -> None:
    network = make()
    with torch.no_grad():
        network.body.mlp.linears[0].weight[0, 0] = float("nan")
        assert network(observations()).isnan().all()


def test_squeeze_keeps_order_and_tells_far_values_apart() -> None:
    x = torch.linspace(-12.0, 12.0, 241)
    bent = squeeze(x, 3.0)
    assert (bent.diff() > 0.0).all()
    assert bent.abs().max() < 3.0
    torch.testing.assert_close(squeeze(x[110:131], 3.0), x[110:131], rtol=0.06, atol=0.0)
    far = torch.zeros(2, 5)
    far[:, 0] = torch.tensor([4.0, 6.0])
    with torch.no_grad():
        features = PopulationSpikingEncoderFactory().create((5,))(far)
    assert not torch.equal(features[0], features[1])


def test_fields_survive_json() -> None:
    factory = PopulationSpikingEncoderFactory(
        hidden_units=[7],
        spike_steps=4,
        encoder_pop_size=6,
        encoder="poisson",
        encoder_range=2.0,
        encoder_std=0.5,
        decoder="membrane",
        feature_gain=2.0,
        neuron="lif",
        v_decay=0.25,
        i_decay=0.25,
        v_threshold=1.0,
        surrogate="sigmoid",
        surrogate_width=2.0,
    )
    default = PopulationSpikingEncoderFactory()
    for field in dataclasses.fields(factory):
        assert getattr(factory, field.name) != getattr(default, field.name), field.name
    for original in (factory, default):
        assert PopulationSpikingEncoderFactory.deserialize(original.serialize()) == original


def test_numbers_of_numpy_and_tuples_become_plain() -> None:
    factory = PopulationSpikingEncoderFactory(
        hidden_units=(np.int64(7), 8),  # type: ignore[arg-type]
        v_decay=np.float64(0.25),
        spike_steps=np.int64(3),  # type: ignore[arg-type]
    )
    assert PopulationSpikingEncoderFactory.deserialize(factory.serialize()) == factory
    assert factory.hidden_units == [7, 8]
    assert type(factory.hidden_units[0]) is int


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden_units": []}, ValueError, r"hidden_units must name at least one layer"),
        ({"hidden_units": 256}, TypeError, r"hidden_units must be a list of layer sizes, got 256"),
        ({"hidden_units": [8, 0]}, ValueError, r"hidden_units must be at least 1, got 0"),
        ({"hidden_units": [8.5]}, TypeError, r"hidden_units must be an integer, got 8.5"),
        ({"spike_steps": 0}, ValueError, r"spike_steps must be at least 1, got 0"),
        ({"encoder_pop_size": 0}, ValueError, r"encoder_pop_size must be at least 1"),
        ({"encoder": "fourier"}, ValueError, r"encoder must be one of .*'poisson'.*'fourier'"),
        ({"encoder_range": 0.0}, ValueError, r"encoder_range must be in \(0, inf\]"),
        ({"encoder_std": -1.0}, ValueError, r"encoder_std must be in"),
        ({"decoder": "max"}, ValueError, r"decoder must be one of \['rate', 'membrane'\]"),
        ({"feature_gain": 0.0}, ValueError, r"feature_gain must be in \(0, inf\]"),
        ({"neuron": "izhikevich"}, ValueError, r"neuron must be one of \['current_lif', 'lif'\]"),
        ({"v_decay": 1.5}, ValueError, r"v_decay must be in \[0, 1\], got 1.5"),
        ({"i_decay": 1.5, "neuron": "lif"}, ValueError, r"i_decay must be in \[0, 1\], got 1.5"),
        ({"v_threshold": "high"}, TypeError, r"v_threshold must be a number, got 'high'"),
        ({"surrogate": "step"}, ValueError, r"surrogate must be one of .*'arctan'"),
        ({"surrogate_width": 0.0}, ValueError, r"surrogate_width must be in \(0, inf\]"),
    ],
)
def test_wrong_fields_are_named(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PopulationSpikingEncoderFactory(**changes)
    late = PopulationSpikingEncoderFactory()
    for name, value in changes.items():
        setattr(late, name, value)
    with pytest.raises(error, match=message):
        late.create((5,))
    with pytest.raises(error, match=message):
        late.create_with_action((5,), 2)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((3, 84, 84), "PixelEncoderFactory"),
        (((5,), (3,)), "join the parts"),
        ([[5]], "join the parts"),
        ((), "flatten"),
    ],
)
def test_other_observations_are_refused(shape: Any, remedy: str) -> None:
    factory = PopulationSpikingEncoderFactory()
    for create in (factory.create, lambda s: factory.create_with_action(s, 2)):
        with pytest.raises(ValueError, match=rf"vector observations.*{remedy}"):
            create(shape)


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r"observations must be \[B, 5\]"):
        make()(torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"action must be \[B, 2\] \(batch first\), got \(4, 3\)"):
        make_with_action()(observations(4), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="action_size must be at least 1"):
        small_factory().create_with_action((5,), 0)


def trace(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with warnings.catch_warnings():
        # torch announces the end of torch.jit, which d3rlpy exports with. Other warnings fail.
        warnings.filterwarnings("ignore", r"`torch.jit.trace", DeprecationWarning)
        return torch.jit.trace(network, inputs, check_trace=False)


@pytest.mark.parametrize("changes", [{}, {"decoder": "membrane", "neuron": "lif"}])
def test_traced_for_one_batch_size_it_runs_with_any(changes: dict[str, Any]) -> None:
    network, pair = make(**changes), make_with_action(**changes)
    traced = trace(network, (observations(1),))
    traced_pair = trace(pair, (observations(1), actions(1)))
    with torch.no_grad():
        for batch in (1, 9):
            x, a = observations(batch), actions(batch)
            assert torch.equal(traced(x), network(x))
            assert torch.equal(traced_pair(x, a), pair(x, a))
        assert traced(torch.full((1, 5), float("nan"))).isnan().all()


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("changes", [{}, {"decoder": "membrane", "neuron": "lif"}])
def test_onnx_gives_the_same_features(tmp_path: Path, changes: dict[str, Any], opset: int) -> None:
    network, x = make(**changes), observations(32)
    path = str(tmp_path / "network.onnx")
    with warnings.catch_warnings():
        # torch points to its newer exporter, which does not take traced modules.
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, opset_version=opset, dynamo=False)
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    with torch.no_grad():
        np.testing.assert_array_equal(session.run(None, {name: x.numpy()})[0], network(x).numpy())
    x[4, 0] = float("nan")
    assert np.isnan(session.run(None, {name: x.numpy()})[0][4]).all()


def test_compiled_without_a_break_it_gives_the_same_gradient() -> None:
    network, x = make(), observations()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        compiled: Any = torch.compile(network, backend="eager", fullgraph=True)
        outputs = [compiled(x), network(x)]
    assert torch.equal(*outputs)
    first, second = (torch.autograd.grad(out.sum(), network.parameters()) for out in outputs)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs)
