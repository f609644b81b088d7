"""Fingerprint a slide's content cheaply, to decide whether earlier results may be reused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_ENDS_BYTES = 2**20
_BLOCK_BYTES = 64 * 2**10
_BLOCKS = 16


def fingerprint(files: Sequence[Path]) -> str:
    """Hash each file's size, its first and last MiB, and 16 evenly spaced blocks of 64 KiB.

    A file of at most 3 MiB and 64 KiB is read whole. Several files (an MRXS folder, a DICOM series)
    are read in the order of their names, and their names are hashed too. The name of a single-file
    slide is not hashed, so the file may be moved or renamed.

    The fingerprint changes if the file is another slide, is truncated, grown, re-encoded or still
    being copied (its tail is missing or zero). It changes with headers and directories, which lie
    at the ends. It does not change after an edit in place that keeps the size and misses all
    sampled blocks. Modification times are not used, because they differ between mounts and copies.

    Returns
    -------
    str
        SHA-256 as hexadecimal digits.
    """
    digest = hashlib.sha256()
    several = len(files) > 1
    for path in sorted(files, key=lambda p: p.name):
        if several:
            digest.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
        _add_file(digest, path)
    return digest.hexdigest()


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _add_file(digest: _Digest, path: Path) -> None:
    """Add a file's size and sampled bytes to a digest."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        for start, length in sampled_spans(size):
            digest.update(os.pread(file.fileno(), length, start))


def sampled_spans(size: int) -> list[tuple[int, int]]:
    """Return (start, length) of the bytes that are hashed in a file of `size` bytes."""
    if size <= 2 * _ENDS_BYTES + (_BLOCKS + 1) * _BLOCK_BYTES:  # blocks overlap below this size
        return [(0, size)]
    step = (size - 2 * _ENDS_BYTES) / (_BLOCKS + 1)
    middle = [
        (_ENDS_BYTES + round(step * (i + 1)) - _BLOCK_BYTES // 2, _BLOCK_BYTES)
        for i in range(_BLOCKS)
    ]
    return [(0, _ENDS_BYTES), *middle, (size - _ENDS_BYTES, _ENDS_BYTES)]
