"""A cheap fingerprint of a slide's content, for deciding whether yesterday's results are still its results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

_ENDS_BYTES = 2**20
_BLOCK_BYTES = 64 * 2**10
_BLOCKS = 16


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 (hex) over each file's size, first and last MiB, and 16 evenly spaced blocks of 64 KiB.

    Files up to 3 MiB and 64 KiB are read whole. Several files (an MRXS folder, a DICOM series) are taken in the order of their
    names, each with its name; the name of a single-file slide does not count, so it may be moved or renamed.

    It notices another slide, a file truncated, grown, re-encoded or still being copied (its tail is missing or zero),
    and edits of headers and directories, which lie at the ends. It cannot notice an edit in place, of the same size,
    that misses all the sampled blocks, nor does it look at modification times: they differ between mounts and copies.
    """
    digest = hashlib.sha256()
    several = len(files) > 1
    for path in sorted(files, key=lambda p: p.name):
        if several:
            digest.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
        _add_file(digest, path)
    return digest.hexdigest()


def _add_file(digest, path: Path) -> None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        for start, length in sampled_spans(size):
            digest.update(os.pread(file.fileno(), length, start))


def sampled_spans(size: int) -> list[tuple[int, int]]:
    """(start, length) of the bytes that count in a file of `size` bytes."""
    if size <= 2 * _ENDS_BYTES + (_BLOCKS + 1) * _BLOCK_BYTES:  # beyond, blocks do not overlap
        return [(0, size)]
    step = (size - 2 * _ENDS_BYTES) / (_BLOCKS + 1)
    middle = [
        (_ENDS_BYTES + round(step * (i + 1)) - _BLOCK_BYTES // 2, _BLOCK_BYTES)
        for i in range(_BLOCKS)
    ]
    return [(0, _ENDS_BYTES), *middle, (size - _ENDS_BYTES, _ENDS_BYTES)]
