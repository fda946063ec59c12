"""Markdown, HTML and pictures of a page."""

import base64
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from policies.report import check_folder, layout, save, to_markdown
from policies.report.html import to_html
from policies.report.page import Tile
from policies.report.plots import DARK, LIGHT, to_png, to_svg
from tests.common import run_python
from tests.policies.report.common import report, untrained

NASTY = '<script>alert("1")</script> a|b & *c* _d_ ![l](http:e)'


class Tags(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parse(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    parser.close()
    return parser


def test_html_needs_nothing_from_outside() -> None:
    page = to_html(layout(report()))
    found = parse(page)
    names = [tag for tag, _ in found.tags]
    assert not {"script", "link", "iframe", "object"} & set(names)
    sources = [
        value or ""
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href")
    ]
    assert len(sources) == 2
    for source in sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert sources[0] != sources[1]
    assert "url(" not in page
    assert "@import" not in page


def test_html_escapes_and_shows_every_cell() -> None:
    made = layout(replace(report(), title=NASTY))
    made = replace(made, tiles=(*made.tiles, Tile("t", "v", "<script>in a tile")))
    found = parse(to_html(made))
    assert "<script>in a tile" in found.text
    assert "script" not in [tag for tag, _ in found.tags]
    assert found.text.count(NASTY) == 2  # title and heading
    for table in made.tables:
        for row in table.rows:
            for cell in row:
                assert not cell or cell in found.text


def test_markdown_has_whole_tables_and_escapes() -> None:
    made = replace(report(), verdict=(NASTY,))
    text = to_markdown(layout(made))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.count("|") - line.count("\\|") for line in rows}
    assert widths == {4, 8}
    assert "\\<script>" in text
    assert "a|b & \\*c\\* \\_d\\_ !\\[l\\](http:e)" in text
    assert "a\\|b" in to_markdown(layout(replace(made, spiking=replace(made.spiking, title="a|b"))))


def test_pictures_leave_matplotlib_as_it_was() -> None:
    page = layout(report())
    mpl.rcParams["font.size"] = 30.0
    try:
        before = dict(mpl.rcParams)
        first = to_png(page)
        assert dict(mpl.rcParams) == before
        assert to_png(page) == first
    finally:
        mpl.rcdefaults()
    assert first == to_png(page)
    assert first.startswith(b"\x89PNG\r\n")
    assert to_svg(page, LIGHT) == to_svg(page, LIGHT)
    assert to_svg(page, LIGHT) != to_svg(page, DARK)
    # Letters are outlines.
    assert b"<text" not in to_svg(page, DARK)


def test_no_display_and_no_open_figures() -> None:
    code = (
        "import sys\n"
        "from policies.report import layout\n"
        "from policies.report.plots import to_png\n"
        "from tests.policies.report.common import report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "to_png(layout(report()))\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    assert run_python(code).strip() == "False"


def test_all_files_are_written(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    text = save(untrained(), tmp_path / "a" / "b")
    folder = tmp_path / "a" / "b"
    assert sorted(p.name for p in folder.iterdir()) == [
        "report.html", "report.json", "report.md", "report.png",
    ]  # fmt: skip
    assert (folder / "report.md").read_text() == text
    content = json.loads((folder / "report.json").read_text())
    assert content["dense"]["returns"] == {"absent": "not known: train one"}
    assert re.search(r"\| return, mean \(sd\) \| 2 \(sd 1\) \| not known: train one \|", text)


def test_old_and_new_files_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_bytes

    def interrupted(self: Path, data: bytes) -> int:
        if self.name == "report.html":
            raise KeyboardInterrupt
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(untrained(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cannot be written: .*choose another with --out"):
            check_folder(folder)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("policies.report.plots.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"pip install 'spiking-policies\[report\]'"):
        check_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
