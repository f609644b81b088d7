"""Settings of the C library's allocator: whether a process keeps or returns freed memory.

By default glibc returns freed blocks above 128 kB to the system at once. Under dask's setting
(MALLOC_TRIM_THRESHOLD_=65536) it returns all of them. Each patch then costs some 5,000 page faults:
a tenth of its time on one core, and more where cores share a memory bus.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h
_KEPT_BYTES = 256 * 2**20
_TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB of freed memory.

    Returns
    -------
    bool
        False if the C library has no such setting (not glibc).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = (
        (_MMAP_THRESHOLD, _KEPT_BYTES),
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _TOP_PAD_BYTES),
    )
    return all(mallopt(option, size) == 1 for option, size in options)


def release_freed_memory() -> None:
    """Return this process's free memory to the system; does nothing without glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
