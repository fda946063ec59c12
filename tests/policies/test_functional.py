from typing import Any

import pytest
import torch

from policies.config import CurrentLIFConfig, LIFConfig
from policies.functional import (
    CurrentLIFState,
    LIFState,
    current_lif_sequence,
    current_lif_step,
    lif_sequence,
    lif_step,
)
from policies.surrogate import Surrogate

SPIKE = Surrogate("rectangle")


def lif_trace(currents: list[float], **config: Any) -> tuple[list[float], list[float]]:
    """Membrane after the reset and spikes of a single neuron, step by step."""
    settings = LIFConfig(**config)
    state = LIFState(torch.zeros(1, 1, dtype=torch.float64))
    v, spikes = [], []
    for current in currents:
        s, state = lif_step(torch.tensor([[current]], dtype=torch.float64), state, settings, SPIKE)
        v.append(state.v.item())
        spikes.append(s.item())
    return v, spikes


def test_lif_hard_reset_by_hand() -> None:
    # v: .25 | .1875+.25=.4375 | .328125+.25=.578125 -> spike, 0 | .25 | -.3125 | .5: equal, silent
    #    | .375+.125=.5: equal again | .375+.126=.501 -> spike, 0
    v, spikes = lif_trace([0.25, 0.25, 0.25, 0.25, -0.5, 0.734375, 0.125, 0.126])
    assert v == pytest.approx([0.25, 0.4375, 0.0, 0.25, -0.3125, 0.5, 0.5, 0.0])
    assert spikes == [0, 0, 1, 0, 0, 0, 0, 1]


def test_lif_soft_reset_by_hand() -> None:
    # v: .4 | .3+.4=.7 -> .2 | .15+.4=.55 -> .05 | .0375+.4=.4375 | .328125+1=1.328125 -> .828125
    #    | .62109375 -> .12109375 | .0908203125 | .068115234375
    v, spikes = lif_trace([0.4, 0.4, 0.4, 0.4, 1.0, 0.0, 0.0, 0.0], reset_mode="soft")
    expected = [0.4, 0.2, 0.05, 0.4375, 0.828125, 0.12109375, 0.0908203125, 0.068115234375]
    assert v == pytest.approx(expected)
    assert spikes == [0, 1, 1, 0, 1, 1, 0, 0]


def test_lif_with_dsformers_constants_by_hand() -> None:
    # v: .4 | .1+.45=.55 -> 0 | .4 | .1+.4=.5: equal, silent | .125+.4=.525 -> 0
    v, spikes = lif_trace([0.4, 0.45, 0.4, 0.4, 0.4], v_decay=0.25)
    assert v == pytest.approx([0.4, 0.0, 0.4, 0.5, 0.0])
    assert spikes == [0, 1, 0, 0, 1]


def test_current_lif_by_hand() -> None:
    # i: .2 .3 .35 .175 .0875 .04375 .521875 .2609375
    # v: .2 | .15+.3=.45 | .3375+.35=.6875 -> 0 | .175 | .13125+.0875=.21875
    #    | .1640625+.04375=.2078125 | .155859375+.521875=.677734375 -> 0 | .2609375
    config = CurrentLIFConfig()
    zero = torch.zeros(1, 1, dtype=torch.float64)
    state = CurrentLIFState(zero, zero)
    i, v, spikes = [], [], []
    for x in [0.2, 0.2, 0.2, 0.0, 0.0, 0.0, 0.5, 0.0]:
        s, state = current_lif_step(torch.tensor([[x]], dtype=torch.float64), state, config, SPIKE)
        i.append(state.i.item())
        v.append(state.v.item())
        spikes.append(s.item())
    assert i == pytest.approx([0.2, 0.3, 0.35, 0.175, 0.0875, 0.04375, 0.521875, 0.2609375])
    assert v == pytest.approx([0.2, 0.45, 0.0, 0.175, 0.21875, 0.2078125, 0.0, 0.2609375])
    assert spikes == [0, 0, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_through_two_steps_by_hand(detach: bool) -> None:
    # v1 = x1 = .6: spike, v = 0.  v2 = .75 v1 (1 - s1) + x2 = .3: silent.  Both: ds/dv = 1.
    # ds1/dx1 = 1.  ds2/dx1 = .75 [(1 - s1) - v1 ds1/dv1] = .75 (0 - .6), or 0 when detached.
    x = torch.tensor([[[0.6]], [[0.3]]], dtype=torch.float64, requires_grad=True)
    spikes, _ = lif_sequence(x, None, LIFConfig(detach_reset=detach), SPIKE)
    assert spikes.flatten().tolist() == [1.0, 0.0]
    (grad,) = torch.autograd.grad(spikes[1].sum(), x, retain_graph=True)
    assert grad.flatten().tolist() == pytest.approx([0.0 if detach else -0.45, 1.0])
    (grad,) = torch.autograd.grad(spikes[0].sum(), x)
    assert grad.flatten().tolist() == [1.0, 0.0]


def test_soft_reset_gradient_by_hand() -> None:
    # dv_post/dv = 1 - .5 ds/dv = .5, so ds2/dx1 = .75 * .5.
    x = torch.tensor([[[0.6]], [[0.3]]], dtype=torch.float64, requires_grad=True)
    spikes, _ = lif_sequence(x, None, LIFConfig(reset_mode="soft"), SPIKE)
    (grad,) = torch.autograd.grad(spikes[1].sum(), x)
    assert grad.flatten().tolist() == pytest.approx([0.375, 1.0])


def test_state_is_float32_and_spikes_keep_the_inputs_dtype() -> None:
    x = torch.full((3, 2, 4), 0.3, dtype=torch.bfloat16)
    spikes, state = current_lif_sequence(x, None, CurrentLIFConfig(), SPIKE)
    assert spikes.dtype == torch.bfloat16
    assert state.i.dtype == state.v.dtype == torch.float32
    assert lif_sequence(x.double(), None, LIFConfig(), SPIKE)[1].v.dtype == torch.float64


def test_a_state_of_another_shape_is_refused() -> None:
    state = LIFState(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(2, 3\)"):
        lif_step(torch.zeros(1, 3), state, LIFConfig(), SPIKE)
