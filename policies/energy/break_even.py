"""At which firing rate a spiking network costs what the dense network of its size costs.

Arithmetic alone, as everywhere in this package: at rate r of the layers' inputs, spiking costs

    r * slots * accumulate + fixed

with `slots` the accumulates of linear layers behind neurons if all their inputs fired at all T
spike steps (weights that are 0 have none), and `fixed` what does not follow the rate: attention as
counted, layers on real numbers and norms with all products, and as an option encoder and decoder.
The dense network costs all its products, so that a layer which both have, say a features extractor,
costs the same in both. `DATA_MOVEMENT` says what that leaves out.
"""

from dataclasses import dataclass

from policies.energy.constants import DEFAULT_COSTS, OperationCosts
from policies.energy.count import OperationCount
from policies.energy.figures import Figure

_CODING = ("encoder", "decoder")


@dataclass(frozen=True)
class Published:
    """A number from a paper, which nothing here counted or measured.

    Attributes:
        value: as published.
        unit: of the value.
        text: what it says, in a sentence.
        source: the paper.
    """

    value: float
    unit: str
    text: str
    source: str


DATA_MOVEMENT = Published(
    0.057,
    "spikes per input and spike step",
    "Published, not counted here: with weights and states fetched from memory, at T = 5, a spiking "
    "network needs less than about 0.057 spikes per input and step to cost less than a quantized "
    "dense network of the same precision.",
    "arXiv 2409.08290",
)


@dataclass(frozen=True)
class BreakEven:
    """Where a spiking and a dense network cost the same, and where the spiking one ran.

    Attributes:
        rate: mean firing rate of layer inputs at equal energy; 0 or less: spiking always costs
            more; 1 or more: never.
        input_rate: the mean rate of layer inputs in the run that was counted, weighted by fan-out.
        spiking: energy of the spiking network in that run, zeros among real numbers charged, nJ a
            sample.
        dense: energy of the dense network, all products, nJ a sample.
        text: the comparison in sentences.
        caveat: what published work says about data movement.
    """

    rate: Figure
    input_rate: Figure
    spiking: Figure
    dense: Figure
    text: str
    caveat: Published = DATA_MOVEMENT


def break_even(
    spiking: OperationCount,
    dense: OperationCount,
    *,
    coding: bool = False,
    costs: OperationCosts = DEFAULT_COSTS,
) -> BreakEven:
    """Compare counts of a spiking network and of the dense network of its size.

    Args:
        spiking: counts of the spiking network.
        dense: counts of the dense one, of which `dense` is used: zeros are not skipped.
        coding: encoder and decoder of the spiking network cost, too.
        costs: energy of an operation.

    Raises:
        ValueError: if no linear layer of the spiking network had spikes as input.
    """
    spiked = [layer for layer in spiking.layers.values() if layer.slots > 0]
    slots = sum(layer.slots for layer in spiked)
    if slots == 0:
        raise ValueError(
            "spiking has no linear layer whose input was spikes (SpikeLinear), so no firing rate "
            "decides its energy; was the dense network passed in its place?"
        )
    spikes = sum(layer.accumulates for layer in spiked)
    fixed = OperationCount(
        {
            name: layer
            for name, layer in spiking.layers.items()
            if layer.slots == 0 and (coding or layer.kind not in _CODING)
        }
    )
    fixed_nj = fixed.with_zeros().energy(costs).value
    slot_nj = slots * costs.accumulate_pj / 1000.0
    dense_nj = dense.with_zeros().energy(costs).value
    spiking_nj = spikes * costs.accumulate_pj / 1000.0 + fixed_nj
    rate, input_rate = (dense_nj - fixed_nj) / slot_nj, spikes / slots
    charged = "encoder and decoder charged" if coding else "encoder and decoder left out"
    unit = "spikes per input and spike step"
    return BreakEven(
        Figure(rate, unit, "counted", f"rate at equal energy, {charged}; {costs.text}"),
        Figure(input_rate, unit, "counted", "accumulates over those of all inputs firing"),
        Figure(spiking_nj, "nJ", "counted", f"operations, {charged}; {costs.text}"),
        Figure(dense_nj, "nJ", "counted", f"all products, zeros included; {costs.text}"),
        _text(rate, input_rate, spiking_nj / dense_nj if dense_nj else float("inf")),
    )


def _text(rate: float, input_rate: float, ratio: float) -> str:
    if rate <= 0:
        verdict = "The spiking network costs more than the dense one at any firing rate"
    elif rate >= 1:
        verdict = "The spiking network costs less than the dense one at any firing rate"
    else:
        verdict = f"Both cost the same at a mean input rate of {rate:.3f}"
    return (
        f"{verdict}; at {input_rate:.3f}, where it ran, its arithmetic costs {ratio:.2f} times the "
        "dense network's. Fetching weights and states is not in this comparison."
    )
