import math

import pytest
import torch

from policies import PopulationActorConfig, ValueNetwork, ValueReadout
from policies.config import DecoderConfig

ACTIVITY = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
CONFIG = PopulationActorConfig(hidden_sizes=(9,), decoder=DecoderConfig(pop_size=6), squash=False)


def test_by_hand() -> None:
    readout = ValueReadout(6, values=3, gain=7.0)
    level = ACTIVITY @ readout.level.weight[0] + readout.level.bias
    for k in range(3):
        own = ACTIVITY @ readout.difference.weight[k] + readout.difference.bias[k]
        torch.testing.assert_close(readout(ACTIVITY)[:, k], 7.0 * level + own)


def test_half_precision_activity_is_read_in_float32() -> None:
    readout = ValueReadout(6, values=3)
    rough = ACTIVITY.bfloat16()
    assert torch.equal(readout(rough), readout(rough.float()))


def test_the_gain_moves_all_values_alike_and_not_the_first_ones() -> None:
    torch.manual_seed(0)
    small = ValueReadout(6, 3, gain=1.0)
    torch.manual_seed(0)
    large = ValueReadout(6, 3, gain=50.0)
    torch.testing.assert_close(small(ACTIVITY), large(ACTIVITY), rtol=1e-5, atol=1e-6)
    before = large(ACTIVITY)
    with torch.no_grad():
        large.level.weight.add_(0.01)
    change = large(ACTIVITY) - before
    torch.testing.assert_close(change, 0.5 * ACTIVITY.sum(1, keepdim=True).expand(-1, 3))


def test_network() -> None:
    network = ValueNetwork(4, 3, CONFIG, gain=20.0).eval()
    obs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    values = network(obs)
    assert values.shape == (5, 3)
    rates = network.spikes(obs).mean(0)
    torch.testing.assert_close(values, network.readout(rates))
    values.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert math.isnan(network(torch.full((1, 4), math.nan))[0, 0].item())


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"activity must be \[B, 6\]"):
        ValueReadout(6)(torch.zeros(5, 7))
    with pytest.raises(ValueError, match="gain must be in"):
        ValueReadout(6, gain=0.0)
    with pytest.raises(ValueError, match="values must be at least 1"):
        ValueReadout(6, values=0)
