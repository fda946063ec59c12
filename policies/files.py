"""Files that are whole or as they were."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(fname: str, write: Callable[[str], None]) -> None:
    """Let write fill a file beside fname, then rename it: fname is whole or as it was.

    Args:
        fname: the file.
        write: writes to the path that it is given; it ends as fname does.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    target = Path(fname)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} in")
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix
    )
    os.close(handle)
    try:
        write(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
