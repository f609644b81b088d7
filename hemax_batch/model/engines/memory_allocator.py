"""What becomes of freed memory: workers keep it between patches, a process that has little to do gives it back.

Freed blocks of more than 128 kB go back at once by default, and under dask's own setting (MALLOC_TRIM_THRESHOLD_=65536)
all do: each patch then costs some 5,000 page faults, a tenth of its time on one core and more where cores share.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_KEPT_BYTES = 256 * 2**20
_TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Keep up to 256 MB between patches, in this process. False where the C library cannot be told (not glibc)."""
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    asked = (
        (_MMAP_THRESHOLD, _KEPT_BYTES),
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _TOP_PAD_BYTES),
    )
    return all(tell(what, size) == 1 for what, size in asked)


def release_freed_memory() -> None:
    """Give what is free in this process back to the system, where the C library can be told (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
