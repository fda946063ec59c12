"""The files of a report."""

import json
import tempfile
from pathlib import Path

from policies.report.html import to_html
from policies.report.layout import layout
from policies.report.markdown import to_markdown
from policies.report.plots import check_matplotlib, to_png
from policies.report.records import Report


def check_folder(folder: Path) -> None:
    """Make a folder and see that files can be written in it, before anything takes long.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if the folder cannot be made or written in.
    """
    check_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"the folder {folder} cannot be written: {error.strerror or error}; choose another "
            "with --out"
        ) from error


def save(report: Report, folder: Path) -> str:
    """Write report.md, .json, .html and .png, which replace older ones when all are there.

    Returns:
        the Markdown.

    Raises:
        FileNotFoundError: if there is no such folder.
        ImportError: if matplotlib is missing.
    """
    page = layout(report)
    markdown = to_markdown(page)
    content = {
        "report.md": markdown.encode(),
        "report.json": (json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n").encode(),
        "report.html": to_html(page).encode(),
        "report.png": to_png(page),
    }
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to write a report in")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".report.") as beside:
        for name, data in content.items():
            (Path(beside) / name).write_bytes(data)
        for name in content:
            (Path(beside) / name).replace(folder / name)
    return markdown
