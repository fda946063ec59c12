"""A page as one HTML file that opens without a network: no scripts, no fonts, pictures inside."""

import base64
from html import escape
from string import Template

from policies.report.page import Page, Section, Table, Tile
from policies.report.plots import DARK, LIGHT, to_svg

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0;
  --paper: #ffffff; --card: #f6f8fa; --accent: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --paper: #0d1117; --card: #151b23; --accent: #58a6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, li { margin: .25rem 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 1.1rem; }
.soft, .note { color: var(--soft); }
.note { font-size: .85rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tile { flex: 1 1 10rem; padding: .6rem .8rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .4rem; }
.tile b { display: block; font-size: 1.35rem; color: var(--accent); }
.tile span { display: block; font-size: .8rem; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; }
.number { white-space: nowrap; }
.left { text-align: left; overflow-wrap: break-word; }
picture img { width: 100%; height: auto; display: block; }
.sections { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr));
  gap: 0 1.6rem; font-size: .85rem; }
@media print {
  @page { size: A4; margin: 6mm; }
  body { padding: 0; max-width: none; font-size: 7pt; line-height: 1.15; }
  h1 { font-size: 12pt; } h2 { margin: 1.6mm 0 .6mm; font-size: 8pt; }
  .tiles { margin: 1.5mm 0; gap: 1.5mm; flex-wrap: nowrap; }
  .tile { flex: 1 1 0; padding: 1mm 1.5mm; } .tile b { font-size: 10pt; }
  .tile span, .note, table, .sections { font-size: 5.8pt; }
  th, td { padding: .2mm 1mm; }
  .tables { display: grid; grid-template-columns: 46fr 54fr; gap: 0 4mm;
    grid-auto-flow: dense; }
  .long { grid-column: 1 / -1; }
  .long .left:not(:last-child) { white-space: nowrap; }
  picture img { max-height: 74mm; width: auto; max-width: 100%; margin: 0 auto; }
  .sections { grid-template-columns: 1fr 1fr; gap: 0 4mm; }
  li, p { margin: .2mm 0; }
}
"""

# Longer cells are words, and may be broken.
_NUMBER = 16

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<p class="soft">$subtitle</p>
$body
</body>
</html>
""")


def to_html(page: Page) -> str:
    """The whole file; every text in it is escaped."""
    parts = []
    if page.tiles:
        tiles = "".join(_tile(tile) for tile in page.tiles)
        parts.append(f'<div class="tiles">{tiles}</div>')
    if page.panels:
        parts.append(_picture(page))
    if page.tables:
        tables = "\n".join(_table(table) for table in page.tables)
        parts.append(f'<div class="tables">{tables}</div>')
    if page.sections:
        sections = "".join(_section(section) for section in page.sections)
        parts.append(f'<div class="sections">{sections}</div>')
    return _PAGE.substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        style=_STYLE,
        body="\n".join(parts),
    )


def _tile(tile: Tile) -> str:
    detail = f"<span>{escape(tile.detail)}</span>" if tile.detail else ""
    return (
        f'<div class="tile"><span>{escape(tile.label)}</span><b>{escape(tile.value)}</b>'
        f"{detail}</div>"
    )


def _picture(page: Page) -> str:
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(to_svg(page, style)).decode("ascii")
        for style in (LIGHT, DARK)
    )
    titles = [panel.title for row in page.panels for panel in row]
    shown = escape("; ".join(titles), quote=True)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{shown}"></picture>'
    )


def _table(table: Table) -> str:
    head = "".join(_cell("th", table, i, name) for i, name in enumerate(table.columns))
    rows = "".join(
        "<tr>" + "".join(_cell("td", table, i, text) for i, text in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    # Words at the end of a row take room: on paper such a table has the page's width.
    wide = ' class="long"' if table.is_left(len(table.columns) - 1) else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<section{wide}><h2>{escape(table.title)}</h2>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</section>"
    )


def _cell(tag: str, table: Table, column: int, text: str) -> str:
    kind = ""
    if table.is_left(column):
        kind = ' class="left"'
    elif tag == "td" and len(text) <= _NUMBER:
        kind = ' class="number"'
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _section(section: Section) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in section.sentences)
    return f"<section><h2>{escape(section.title)}</h2><ul>{items}</ul></section>"
