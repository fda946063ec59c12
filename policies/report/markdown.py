"""A page as Markdown."""

from policies.report.page import Page, Section, Table


def to_markdown(page: Page) -> str:
    """The page without its pictures, which stand in report.png beside it."""
    parts = [f"# {_plain(page.title)}"]
    if page.subtitle:
        parts.append(_plain(page.subtitle))
    if page.tiles:
        tiles = [
            f"- {_plain(tile.label)}: **{_plain(tile.value)}**"
            + (f" ({_plain(tile.detail)})" if tile.detail else "")
            for tile in page.tiles
        ]
        parts.append("\n".join(tiles))
    parts += [_table(table) for table in page.tables]
    parts += [_section(section) for section in page.sections]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [_row(table.columns)]
    lines.append(
        "|"
        + "|".join("---" if table.is_left(i) else "---:" for i in range(len(table.columns)))
        + "|"
    )
    lines += [_row(row) for row in table.rows]
    text = f"## {_plain(table.title)}\n\n" + "\n".join(lines)
    return f"{text}\n\n{_plain(table.note)}" if table.note else text


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _section(section: Section) -> str:
    lines = [f"- {_plain(sentence)}" for sentence in section.sentences]
    return f"## {_plain(section.title)}\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    """One line, and nothing in it that Markdown would take for HTML, emphasis or a link."""
    for mark in ("\\", "`", "*", "_", "<", "[", "]"):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
