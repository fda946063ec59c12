"""One page about a spiking network beside the dense network of the same size.

records.py holds the numbers, each with its kind and method; layout.py makes a `Page` of them;
markdown.py, html.py and plots.py show any page. Adapters of an RL library fill the records.
"""

from policies.report.files import check_folder, save
from policies.report.layout import layout
from policies.report.markdown import to_markdown
from policies.report.page import Page
from policies.report.records import Absent, Energy, Latency, LayerRecord, NetworkRecord, Report
from policies.report.statistics import Summary, summarize

__all__ = [
    "Absent",
    "Energy",
    "Latency",
    "LayerRecord",
    "NetworkRecord",
    "Page",
    "Report",
    "Summary",
    "check_folder",
    "layout",
    "save",
    "summarize",
    "to_markdown",
]
