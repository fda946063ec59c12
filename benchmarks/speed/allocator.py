"""The C library's allocator, told to keep freed memory.

glibc gives large freed blocks back to the system and asks for them again at the next step; how
often depends on what the process did before. On the networks here that is up to a quarter of a
step's time, and it moved ratios by as much between runs of the same code.
"""

import ctypes
import ctypes.util

# glibc's numbers of the parameters: what stays at the top of the heap, what gets its own mapping.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
# Older versions take no more than the second for a mapping.
LIMITS = (2**30, 2**25)


def keep_freed_memory() -> bool:
    """Tell the allocator; False where it cannot be told."""
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c")).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, LIMITS[0])) and any(
        mallopt(MMAP_THRESHOLD, limit) for limit in LIMITS
    )
