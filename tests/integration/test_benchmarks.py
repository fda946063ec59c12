"""The offline benchmark's contexts are those of d3rlpy's stateful wrapper."""

from types import SimpleNamespace

import d3rlpy
import numpy as np
import pytest
import torch

from benchmarks import offline_learning
from benchmarks.offline_episodes import Contexts
from benchmarks.offline_learning import make_config


@pytest.mark.parametrize("name", ["sdt", "dt", "dsformer-tssa"])
def test_contexts_equal_the_stateful_wrapper(name: str) -> None:
    args = SimpleNamespace(
        algo=name, learning_rate=1e-3, width=16, steps=100, normalization="tdln",
        mask_statistics=False,
    )  # fmt: skip
    d3rlpy.seed(0)
    config = make_config(args)  # type: ignore[arg-type]  # all that it reads
    config.context_size, config.max_timestep, config.num_layers = 5, 9, 1
    scale = np.linspace(1.0, 2.0, 4)
    config.observation_scaler = d3rlpy.preprocessing.StandardObservationScaler(
        mean=0.1 * scale, std=scale
    )
    algo = config.create()
    algo.create_impl((4,), 2)
    with torch.no_grad():
        for parameter in algo.impl.modules.transformer.parameters():
            parameter.mul_(5.0)  # so that history matters
    contexts = Contexts(algo, target=50.0, episodes=3)
    wrappers = [algo.as_stateful_wrapper(50.0) for _ in range(3)]
    rng = np.random.default_rng(0)
    obs, reward = np.zeros((3, 4)), np.zeros(3)
    algo.impl.modules.set_eval()
    for _ in range(12):  # beyond the context and the last timestep
        obs[:] = rng.normal(size=(3, 4))  # in place, as the benchmark's environments do
        with torch.no_grad():
            ours = contexts.act(obs, reward)
        theirs = [
            w.predict(o.copy(), float(r)) for w, o, r in zip(wrappers, obs, reward, strict=True)
        ]
        np.testing.assert_allclose(ours, np.stack(theirs), atol=1e-5)
        reward = rng.normal(size=3)
    assert np.abs(np.diff(ours, axis=0)).max() > 1e-3


def test_every_algorithm_of_the_benchmark_has_a_config() -> None:
    for name in offline_learning.ALGORITHMS:
        args = SimpleNamespace(
            algo=name, learning_rate=1e-3, width=16, steps=100, normalization="ptbn",
            mask_statistics=True,
        )  # fmt: skip
        config = make_config(args)  # type: ignore[arg-type]  # all that it reads
        assert config.attn_dropout == config.resid_dropout == config.embed_dropout == 0.0
