"""What stands where on the page."""

from dataclasses import replace

import pytest

from policies.report import LayerRecord, Page, layout, summarize
from policies.report.page import Panel, Series, Table
from tests.policies.report.common import report, untrained


def table(page: Page, title: str) -> Table:
    return next(found for found in page.tables if found.title.startswith(title))


def panel(page: Page, title: str) -> Panel:
    return next(found for row in page.panels for found in row if found.title.startswith(title))


def test_every_kind_has_its_own_rows_and_picture() -> None:
    page = layout(report())
    rows = table(page, "Energy").rows
    assert [row[:2] for row in rows] == [
        ("counted", "zeros skipped"),
        ("counted", "all products"),
        ("simulated", "chip"),
        ("measured", "whole machine"),
    ]
    assert rows[0][2:6] == ("191 pJ", "3.82 nJ", "230 pJ", "4.60 nJ")
    assert rows[1][2:6] == ("-", "-", "368 pJ", "7.36 nJ")
    assert rows[3][-1] == "not measured: no counters here"
    counted = panel(page, "Counted energy")
    assert counted.labels == (
        "spiking, zeros skipped",
        "dense, zeros skipped",
        "dense, all products",
    )
    assert [series.values for series in counted.series] == [
        (0.1912, None, None),
        (None, 0.23, 0.368),
    ]
    assert panel(page, "Simulated energy").labels == ("spiking, chip",)
    titles = [found.title for row in page.panels for found in row]
    assert not any(title.startswith("Measured") for title in titles)


def test_comparison_and_tiles() -> None:
    page = layout(report())
    rows = {row[0]: row[1:] for row in table(page, "Beside").rows}
    assert rows["return, mean (sd)"] == ("2 (sd 1)", "5 (sd 1)")
    assert rows["latency of a decision, median (quartiles)"][0].endswith("us), kernel 'numba'")
    assert rows["parameters"] == ("1,234", "1,234")
    assert rows["accumulates a decision"] == ("100", "0")
    assert rows["products at all spike steps, zeros included"] == ("424", "80")
    tiles = {tile.label: (tile.value, tile.detail) for tile in page.tiles}
    assert tiles["energy beside the dense twin"] == ("0.831 x", "zeros skipped in both")
    assert tiles["firing rate, mean over layers"] == ("17.5 %", "10 % to 25 % by layer")


def test_another_size_is_not_called_the_same() -> None:
    made = report()
    assert table(layout(made), "Beside").title.endswith("with the same hidden layers")
    dense = replace(made.dense, parameters=617)
    found = table(layout(replace(made, dense=dense, alike=False)), "Beside")
    assert found.title == "Beside a dense network of another size"
    assert "dense net: dense.zip, 0.500 times the spiking one's parameters" in found.note


def test_intervals_name_their_method_and_episodes() -> None:
    def notes(episodes: int) -> str:
        made = report()
        returns = summarize([float(i) for i in range(episodes)])
        spiking, dense = (replace(n, returns=returns) for n in (made.spiking, made.dense))
        page = layout(replace(made, spiking=spiking, dense=dense))
        details = [tile.detail for tile in page.tiles]
        assert any(f"n = {episodes}" in detail for detail in details)
        return " ".join(page.sections[2].sentences)

    assert "percentile bootstrap, 10,000 resamples of 12 episodes." in notes(12)
    assert "too narrow" not in notes(12)
    assert "resamples of 5 episodes. Of fewer than 10 episodes it is too narrow" in notes(5)


def test_an_untrained_twin_says_what_is_not_known() -> None:
    page = layout(untrained())
    comparison = table(page, "Beside")
    assert comparison.rows[0][2] == "not known: train one"
    assert "zeros of an untrained one mean nothing" in comparison.note
    assert "all products in both" in [tile.detail for tile in page.tiles]
    assert [series.name for series in panel(page, "Return").series] == ["spiking"]


def test_neurons_stand_with_their_linear_layer() -> None:
    rows = [row for row in table(layout(report()), "Operations").rows if row[0] == "spiking"]
    assert [(row[1], row[2], row[3]) for row in rows] == [
        ("encoder", "10 %", "0"),
        ("linears.0", "25 %", "100"),
        ("decoder", "-", "0"),
    ]


def test_many_layers_are_grouped_without_losing_operations() -> None:
    made = report()
    many = tuple(
        LayerRecord(f"blocks.{block}.{part}.{i}", 1.0, 2.0, 5.0, 0.125 * block)
        for block in range(4)
        for part in ("attention", "mlp")
        for i in range(3)
    )
    made = replace(made, spiking=replace(made.spiking, layers=many))
    page = layout(made)
    rows = [row for row in table(page, "Operations").rows if row[0] == "spiking"]
    assert [row[1] for row in rows][:2] == ["blocks.0.attention", "blocks.0.mlp"]
    assert len(rows) == 8
    assert rows[2][2:6] == ("12.5 %", "3", "6", "15")
    bars = panel(page, "Operations").series
    assert sum(value or 0.0 for value in bars[0].values) == 24.0
    assert sum(value or 0.0 for value in bars[1].values) == 48.0


def test_modules_without_a_rule_are_named() -> None:
    made = report()
    made = replace(made, spiking=replace(made.spiking, uncounted=("x (Odd)",)))
    notes = next(s for s in layout(made).sections if s.title.startswith("Assumptions"))
    assert any("no counting rule covers x (Odd)" in sentence for sentence in notes.sentences)


def test_tables_and_panels_refuse_ragged_rows() -> None:
    with pytest.raises(ValueError, match="must have 2 cells"):
        Table("t", ("a", "b"), (("1",),))
    with pytest.raises(ValueError, match="must have 1 values"):
        Panel("p", "x", ("a",), (Series("s", (1.0, 2.0)),))
