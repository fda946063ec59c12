"""What is put on the chip, and what is refused before SANA-FE is started; SANA-FE is not needed."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policies.actor import PopulationActor
from policies.config import CurrentLIFConfig, EncoderConfig, LIFConfig, PopulationActorConfig
from policies.energy import loihi
from policies.energy.loihi import simulate_on_loihi
from policies.energy.loihi_network import chip_network, spike_trains


def make(obs_dim: int = 3, **config: Any) -> PopulationActor:
    torch.manual_seed(0)
    return PopulationActor(obs_dim, 2, PopulationActorConfig(**config))


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """SANA-FE looks installed; starting it fails the test."""

    def run(*_args: Any) -> None:
        pytest.fail("SANA-FE was started")

    monkeypatch.setattr(loihi, "check_installed", lambda: None)
    monkeypatch.setattr(loihi, "run_worker", run)


@pytest.mark.parametrize("kind", ["deterministic", "poisson"])
@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_spike_trains_are_the_actors(kind: Any, v_init: float) -> None:
    actor = make(encoder=EncoderConfig(kind=kind, v_init=v_init), hidden_sizes=(8,))
    actor(torch.randn(64, 3))  # the normalizer learns
    observations = torch.randn(5, 3)
    state = torch.random.get_rng_state()
    trains = spike_trains(actor, observations)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert actor.training
    actor.eval()
    assert torch.equal(trains[-1], actor.spikes(observations))
    assert [train.shape for train in trains] == [(5, 5, 30), (5, 5, 8), (5, 5, 20)]
    # What a deterministic decision fires, whatever the generator's state.
    settled = spike_trains(actor, observations, deterministic=True)
    assert torch.equal(settled[-1], actor.spikes(observations, True))
    torch.manual_seed(7)
    again = spike_trains(actor, observations, deterministic=True)
    assert all(torch.equal(one, other) for one, other in zip(settled, again, strict=True))
    assert torch.equal(settled[0], trains[0]) == (kind == "deterministic")


@pytest.mark.parametrize(
    "neuron", [LIFConfig(v_decay=1.0), CurrentLIFConfig(i_decay=0.9, v_threshold=0.3)]
)
@pytest.mark.parametrize("matmul", ["float32", "exact"])
def test_scaled_network_is_the_network(neuron: LIFConfig, matmul: Any) -> None:
    actor = make(hidden_sizes=(8,), neuron=neuron, matmul=matmul)
    network = chip_network(actor)
    for index, (layer, settings) in enumerate(
        zip(actor.mlp.layers(), network.header["layers"], strict=True)
    ):
        scale = settings["neuron"]["threshold"] / neuron.v_threshold
        assert math.log2(scale) == int(math.log2(scale))
        weight = torch.from_numpy(network.arrays[f"weight{index}"]) / scale
        bias = torch.from_numpy(network.arrays[f"bias{index}"]) / scale
        spikes = torch.randint(0, 2, (20, layer.in_features)).float()
        tolerance = (
            0.0 if matmul == "float32" else 2.0**-23 * float(layer.weight.detach().abs().max())
        )
        assert torch.allclose(weight, layer.weight, rtol=0.0, atol=tolerance)
        assert torch.equal(bias, layer.bias)
        # No membrane can leave SANA-FE's int: always the same spikes, which never reset.
        strongest = spikes.new_tensor(0.0)
        for signed in (weight.clamp_min(0), -weight.clamp_max(0)):
            strongest = torch.maximum(strongest, (signed.sum(dim=1) + bias.abs()).max())
        i = v = 0.0
        for _ in range(5 + 2):
            i = float(strongest) + settings["neuron"]["input_decay"] * i
            v = i + settings["neuron"]["leak_decay"] * v
        assert v * scale <= 2.0**24 < 2 * v * scale * (1 + 1e-6)
    decays = network.header["layers"][0]["neuron"]
    assert decays["leak_decay"] == neuron.v_decay
    assert decays["input_decay"] == getattr(neuron, "i_decay", 0.0)


def test_silent_network_has_a_scale_too() -> None:
    actor = make(hidden_sizes=())
    with torch.no_grad():
        for parameter in actor.mlp.parameters():
            parameter.zero_()
    network = chip_network(actor)
    assert math.isfinite(network.header["layers"][0]["neuron"]["threshold"])
    assert network.bias_synapses == 0
    assert not network.fan_out[0].any()


def test_layers_are_spread_over_cores() -> None:
    actor = make(hidden_sizes=(1024, 300), encoder=EncoderConfig(pop_size=10))
    header = chip_network(actor).header
    assert header["inputs"] == [[0, 0, 30]]
    first, second, _ = (layer["cores"] for layer in header["layers"])
    assert first == [[1, 0, 512], [2, 512, 1024]]  # with a bias a core holds 1023 neurons
    # 1024 inputs and a bias: 131072 // 1025 = 127 neurons a core.
    assert second == [[3, 0, 100], [4, 100, 200], [5, 200, 300]]
    with torch.no_grad():
        actor.mlp.layers()[0].bias.zero_()
    assert chip_network(actor).header["layers"][0]["cores"] == [[1, 0, 1024]]


def test_refuses_networks_that_do_not_fit(unstarted: None) -> None:
    wide = make(1, hidden_sizes=(131_000,), encoder=EncoderConfig(pop_size=1))
    with pytest.raises(
        ValueError, match=r"mlp\.linears\.0 it needs 130 cores of 128 \(1024 neurons and 131072 w"
    ):
        simulate_on_loihi(wide, torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"mlp\.linears\.0 has 4201 inputs .* takes 4096"):
        simulate_on_loihi(make(420, hidden_sizes=(8,)), torch.zeros(1, 420))


def test_refuses_what_spikes_cannot_carry(unstarted: None) -> None:
    analog = make(encoder=EncoderConfig(kind="analog"), hidden_sizes=())
    with pytest.raises(ValueError, match=r"encoder is 'analog'.*use encoder 'deterministic'"):
        simulate_on_loihi(analog, torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("observations", "kwargs", "error", "message"),
    [
        (torch.tensor([[0.0, math.nan, 0.0]]), {}, ValueError, "observations must be finite"),
        (torch.tensor([[0.0, math.inf, 0.0]]), {}, ValueError, "observations must be finite"),
        (torch.zeros(2, 4), {}, ValueError, r"observations must be \[B, 3\]"),
        (torch.zeros(0, 3), {}, ValueError, "at least one row"),
        (np.zeros((2, 3)), {}, TypeError, "observations must be a tensor, got ndarray"),
        (torch.zeros(2, 3), {"decisions": 0}, ValueError, "decisions must be at least 1"),
        (torch.zeros(2, 3), {"timeout": 0.0}, ValueError, "timeout must be in"),
    ],
)  # fmt: skip
def test_refuses_arguments(
    unstarted: None, observations: Tensor, kwargs: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        simulate_on_loihi(make(hidden_sizes=(), normalize=False), observations, **kwargs)


def test_refuses_other_networks(unstarted: None) -> None:
    with pytest.raises(TypeError, match=r"model\.actor\.mu\), got Linear"):
        simulate_on_loihi(nn.Linear(3, 2), torch.zeros(1, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_refuses_broken_weights(unstarted: None, part: str) -> None:
    actor = make(hidden_sizes=(4,))
    with torch.no_grad():
        getattr(actor.mlp.layers()[1], part)[0] = math.nan
    with pytest.raises(ValueError, match=rf"mlp\.linears\.1\.{part} must be finite"):
        simulate_on_loihi(actor, torch.zeros(1, 3))


def test_without_sanafe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sanafe", None)
    with pytest.raises(ImportError, match=r"pip install 'spiking-policies\[loihi\]'"):
        simulate_on_loihi(make(), torch.zeros(1, 3))
