"""Where the shipped policies lie: this package's, and those of the other adapter."""

from importlib.util import find_spec
from pathlib import Path

OWN = Path(__file__).resolve().parents[1] / "trained"
OTHER = "d3rlpy_spiking"


def other_folder() -> Path | None:
    """The other adapter's; None where it is not installed. It is not imported."""
    spec = find_spec(OTHER)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "trained"


def all_folders() -> list[Path]:
    """Both, where there are both."""
    other = other_folder()
    return [OWN] if other is None else [OWN, other]
