"""The wavefront encoder."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import pytest
import torch
from d3rlpy.models.torch.encoders import compute_output_size
from torch import Tensor, nn

from d3rlpy_spiking.maze import WavefrontEncoderFactory, distances, generate_maze, observe
from d3rlpy_spiking.maze.planner import WavefrontEncoder
from tests.d3rlpy_spiking.maze.common import small_data, small_transformer

DATA = small_data()


def _observations(maze_set: Any, count: int) -> Tensor:
    parts = [observe(maze_set.mazes[w.maze], w.goal, w.cells[:-1]) for w in maze_set.walks]
    return torch.from_numpy(np.concatenate(parts)[:count]).float()


def _encoder(seed: int = 0, **changes: Any) -> WavefrontEncoder:
    torch.manual_seed(seed)
    factory = WavefrontEncoderFactory(**{"feature_size": 8, "iterations": 16, **changes})
    return factory.create((6, 5, 5))


def _set_gates(encoder: WavefrontEncoder) -> None:
    """Gates that are open where the passage is, as learning finds them."""
    planner = encoder.planner
    with torch.no_grad():
        planner.gate_weight.fill_(40.0 / planner.gain)
        planner.gate_bias.fill_(-20.0 / planner.gain)
        planner.charge.fill_(1.5)
        planner.source.fill_(1.5)


def test_counts_tell_the_distance_one_spike_a_step() -> None:
    encoder, maze, goal = _encoder(iterations=30), generate_maze(7, seed=1), (2, 5)
    _set_gates(encoder)
    x = torch.from_numpy(observe(maze, goal, [(0, 0)])).float()
    counts, mark = encoder.planner.wave(encoder.planner.gates(x), x[:, 4])
    to_goal = distances(maze, np.array([goal]))[0]
    np.testing.assert_array_equal(counts[0].detach().numpy(), np.maximum(30 - to_goal, 0))
    assert mark.tolist() == [[[0.0]]]


def test_preferences_point_along_shortest_paths() -> None:
    encoder = _encoder(iterations=30)
    _set_gates(encoder)
    walks = DATA.mazes.walks
    preferences = encoder.planner(_observations(DATA.mazes, 10_000)).detach().numpy()
    optimal = np.concatenate([walk.optimal for walk in walks])
    np.testing.assert_array_equal(preferences > 0.5, optimal)


@pytest.mark.parametrize(("spiking", "seed"), [(True, 1), (False, 0)])
def test_gates_are_learned_from_random_values(spiking: bool, seed: int) -> None:
    encoder = _encoder(seed=seed, feature_size=32, spiking=spiking)
    # The wrong sign: open where the wall is.
    encoder.planner.gate_weight.data.fill_(-0.3 / encoder.planner.gain)
    model = nn.Sequential(encoder, nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    x = _observations(DATA.train, DATA.train.steps)
    y = torch.tensor([action for walk in DATA.train.walks for action in walk.actions])
    test, optimal = (
        _observations(DATA.mazes, DATA.mazes.steps),
        np.concatenate([walk.optimal for walk in DATA.mazes.walks]),
    )

    def score() -> float:
        chosen = model(test).argmax(dim=1).numpy()
        return float(optimal[np.arange(len(chosen)), chosen].mean())

    before = score()
    for _ in range(300):
        rows = torch.randint(len(x), (64,)).sort().values
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert before < 0.7
    assert float(encoder.planner.gate_weight.detach()) > 0.0
    assert score() > 0.9


def test_spikes_are_spikes_and_the_dense_counterpart_is_graded() -> None:
    x = _observations(DATA.train, 16)
    counts = {}
    for spiking in (True, False):
        planner = _encoder(spiking=spiking, seed=4).planner
        counts[spiking] = planner.wave(planner.gates(x), x[:, 4])[0].detach()
    assert torch.equal(counts[True], counts[True].round())
    assert not torch.equal(counts[False], counts[False].round())
    sizes = [sum(p.numel() for p in _encoder(spiking=s).parameters()) for s in (True, False)]
    assert sizes == [4 + 5 * 8] * 2


def test_a_shared_wave_changes_nothing() -> None:
    x = _observations(DATA.train, 60)
    x = torch.cat([torch.zeros(3, 6, 5, 5), x, x[:5], torch.rand(4, 6, 5, 5)])
    shared, single = _encoder(share=True), _encoder(share=False)
    assert torch.equal(shared(x), single(x))
    grads = []
    for encoder in (shared, single):
        encoder(x).square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def test_all_parameters_get_gradients_and_batches_of_one_work() -> None:
    encoder = _encoder()
    encoder(_observations(DATA.train, 1)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert compute_output_size([(6, 5, 5)], encoder) == 8


def test_gradients_stay_small_over_many_iterations() -> None:
    for seed in range(3):
        encoder = _encoder(seed=seed, iterations=200)
        encoder(_observations(DATA.train, 64)).mean().backward()
        norms = [float(p.grad.norm()) for p in encoder.parameters() if p.grad is not None]
        assert all(math.isfinite(norm) and norm < 10.0 for norm in norms)


@pytest.mark.parametrize("plane", [0, 4, 5])
def test_nan_goes_through(plane: int) -> None:
    x = _observations(DATA.train, 2)
    x[1, plane, 2, 2] = math.nan
    features = _encoder()(x)
    assert features[0].isfinite().all()
    assert features[1].isnan().all()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_equals_the_module() -> None:
    encoder, x = _encoder(), _observations(DATA.train, 5)
    # Shapes that the tracer turns into constants are those of the maze.
    traced = torch.jit.trace(encoder, (x,), check_trace=False)
    torch.testing.assert_close(traced(x.flip(0)), encoder(x.flip(0)))


def test_config_survives_saving(tmp_path: Path) -> None:
    factory = WavefrontEncoderFactory(feature_size=16, iterations=9, spiking=False, gain=7.0)
    algo = small_transformer(encoder_factory=factory)
    algo.save(str(tmp_path / "model.d3"))
    loaded = d3rlpy.load_learnable(str(tmp_path / "model.d3"))
    assert dataclasses.asdict(loaded.config.encoder_factory) == dataclasses.asdict(factory)
    for one, two in zip(
        algo.impl.modules.transformer.parameters(),
        loaded.impl.modules.transformer.parameters(),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_trains_in_a_transformer_and_in_q_learning() -> None:
    transformer = small_transformer(encoder_factory=WavefrontEncoderFactory(16, 12))
    before = [p.clone() for p in transformer.impl.modules.transformer.parameters()]
    transformer.update(DATA.dataset.sample_trajectory_batch(8, length=6))
    after = list(transformer.impl.modules.transformer.parameters())
    assert any(not torch.equal(one, two) for one, two in zip(before, after, strict=True))
    factory = WavefrontEncoderFactory(feature_size=16, iterations=12)
    dqn = d3rlpy.algos.DQNConfig(encoder_factory=factory).create()
    dqn.build_with_dataset(DATA.dataset)
    losses = dqn.update(DATA.dataset.sample_transition_batch(8))
    assert all(math.isfinite(loss) for loss in losses.values())
    assert dqn.predict(_observations(DATA.train, 3).numpy()).shape == (3,)


@pytest.mark.parametrize("discrete", [True, False])
def test_encoder_with_action(discrete: bool) -> None:
    encoder = WavefrontEncoderFactory(8, 12).create_with_action((6, 5, 5), 4, discrete)
    x = _observations(DATA.train, 3)
    action = torch.tensor([[0], [1], [3]])
    one_hot = nn.functional.one_hot(action[:, 0], 4).float()
    features = encoder(x, action if discrete else one_hot)
    assert features.shape == (3, 8)
    other = encoder(x, (action + 1) % 4 if discrete else one_hot.roll(1, dims=1))
    assert not torch.equal(features, other)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"observation_shape must be \(6, H, W\)"):
        WavefrontEncoderFactory().create((4, 84, 84))
    with pytest.raises(ValueError, match=r"observations must be \[B, 6, H, W\]"):
        _encoder()(torch.zeros(6, 5, 5))
    settings: list[tuple[str, Any]] = [
        ("iterations", 0),
        ("feature_size", 0),
        ("gain", 0.0),
        ("v_decay", 2.0),
        ("surrogate", "step"),
        ("surrogate_width", 0.0),
    ]
    for field, value in settings:
        with pytest.raises(ValueError, match=field):
            WavefrontEncoderFactory(**{field: value})
