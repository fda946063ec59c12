import pytest
import torch

from policies.config import CurrentLIFConfig, LIFConfig, NeuronConfig
from policies.functional import CurrentLIFState, LIFState, current_lif_step, lif_step
from policies.neurons import LIF, CurrentLIF, make_neuron

CONFIGS = [
    LIFConfig(),
    LIFConfig(v_decay=0.25, reset_mode="soft", surrogate="sigmoid"),
    LIFConfig(detach_reset=True, surrogate="arctan", surrogate_width=2.0),
    CurrentLIFConfig(),
    CurrentLIFConfig(i_decay=0.9, reset_mode="soft", surrogate="triangle"),
]


def currents(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 5, generator=generator).requires_grad_()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_module_equals_a_loop_of_steps(config: NeuronConfig) -> None:
    layer = make_neuron(config)
    x = currents()
    spikes, state = layer(x)
    loop_x = x.detach().clone().requires_grad_()
    loop = []
    zeros = torch.zeros(3, 5)
    lif, current = LIFState(zeros), CurrentLIFState(zeros, zeros)
    for i_in in loop_x:
        if isinstance(config, CurrentLIFConfig):
            s, current = current_lif_step(i_in, current, config, layer.spike_fn)
        else:
            s, lif = lif_step(i_in, lif, config, layer.spike_fn)
        loop.append(s)
    assert torch.equal(spikes, torch.stack(loop))
    assert 0.05 < spikes.mean() < 0.95
    expected = current if isinstance(config, CurrentLIFConfig) else lif
    assert all(torch.equal(a, b) for a, b in zip(state, expected, strict=True))
    weight = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(1))
    (spikes * weight).sum().backward()
    (torch.stack(loop) * weight).sum().backward()
    assert x.grad is not None
    assert loop_x.grad is not None
    assert torch.equal(x.grad, loop_x.grad)
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_split_sequence_with_carried_state_equals_the_whole(config: NeuronConfig) -> None:
    layer = make_neuron(config)
    x, y = currents(), currents()
    whole, whole_state = layer(x)
    first, state = layer(y[:2])
    second, state = layer(y[2:], state)
    parts = torch.cat([first, second])
    assert torch.equal(whole, parts)
    assert all(torch.equal(a, b) for a, b in zip(whole_state, state, strict=True))
    whole.square().sum().backward()
    parts.square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_no_state_between_calls_and_none_on_the_module(config: NeuronConfig) -> None:
    layer = make_neuron(config)
    first, _ = layer(currents())
    layer(10 * torch.rand(4, 7, 9))
    again, _ = layer(currents())
    assert torch.equal(first, again)
    assert layer.state_dict() == {}


def test_kinds() -> None:
    assert isinstance(make_neuron(LIFConfig()), LIF)
    assert isinstance(make_neuron(CurrentLIFConfig()), CurrentLIF)
    assert "v_decay=0.75" in repr(LIF())


@pytest.mark.parametrize("layer", [LIF(), CurrentLIF()], ids=["lif", "current_lif"])
@pytest.mark.parametrize("shape", [(5,), (0, 2, 3)])
def test_wrong_shapes_are_refused(layer: LIF | CurrentLIF, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="spike steps first"):
        layer(torch.zeros(shape))
