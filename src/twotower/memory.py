"""Keep freed memory: large temporaries then reuse warm pages instead of faulting in fresh ones."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of the GNU C library


def keep_heap(pad_mb: int = 256) -> bool:
    """Tell the C library's allocator not to give memory back; true where it can be told.

    For programs, not for libraries: it holds for the whole process. Page faults of
    fresh temporaries can cost eager training as much as its arithmetic; the price of keeping them is that the
    process keeps its peak memory. ``THP_MEM_ALLOC_ENABLE`` asks torch for huge pages and only works before
    torch is loaded.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, pad_mb * 2**20))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
