"""Records of networks, and what of them goes into the JSON file."""

import json

import pytest

from policies.report import Absent, Energy
from tests.policies.report.common import figure, report


def test_json_keeps_value_unit_kind_and_method() -> None:
    content = json.loads(json.dumps(report().to_json(), allow_nan=False))
    spiking = content["spiking"]
    assert spiking["energies"][1]["decision"] == {
        "value": 7.0, "unit": "nJ", "kind": "simulated", "method": "simulated here",
    }  # fmt: skip
    assert spiking["energies"][2]["decision"] == {"absent": "not measured: no counters here"}
    assert spiking["returns"]["values"] == [1.0, 2.0, 3.0]
    assert spiking["latency"]["median"]["kind"] == "measured"
    assert [layer["name"] for layer in spiking["layers"]][-1] == "decoder"
    assert spiking["totals"] == {"accumulates": 100.0, "multiply_accumulates": 22.0, "dense": 424.0}
    assert content["dense"]["totals"]["dense"] == 80.0
    assert content["costs"]["accumulate_pj"] == 0.9


def test_energy_of_a_layer() -> None:
    encoder, linear = report().spiking.layers[:2]
    costs = report().costs
    assert encoder.energy_nj(costs) == pytest.approx(20 * 4.6 / 1000)
    assert linear.energy_nj(costs) == pytest.approx(100 * 0.9 / 1000)


def test_kinds_do_not_mix() -> None:
    with pytest.raises(ValueError, match="is counted, got a figure that is simulated"):
        Energy("counted", "x", figure(1.0), figure(1.0, kind="simulated"))
    with pytest.raises(ValueError, match="why must say"):
        Absent("")


def test_counted_energy_is_the_first_counted_row() -> None:
    made = report()
    assert made.spiking.counted() == figure(0.1912)
    assert made.dense.counted() == figure(0.23)
