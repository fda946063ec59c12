"""Trained policies that are shipped with a package, and whether they still play as they did.

manifest.py describes the files of a folder; band.py says which mean returns a sound installation
may give, decisions.py which decisions it takes; check.py plays and compares; pack.py adds a file.
Adapters of an RL library do the playing.
"""

from policies.selftest.band import Band, band_of
from policies.selftest.check import SkippedError, check_names, selftest, show_list
from policies.selftest.decisions import OPENING, Played
from policies.selftest.manifest import Shipped, read_manifest
from policies.selftest.pack import Packed, add_to, commit_here

__all__ = [
    "OPENING",
    "Band",
    "Packed",
    "Played",
    "Shipped",
    "SkippedError",
    "add_to",
    "band_of",
    "check_names",
    "commit_here",
    "read_manifest",
    "selftest",
    "show_list",
]
