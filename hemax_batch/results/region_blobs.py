"""Read pictures and outlines one by one from the journal, where they stay until they are written.

A million of them take 10 GB. Their cells without them take 1 GB.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import google_crc32c

from ..records import RegionResult
from .journal import RegionJournal
from .region_file import Blobs, read_region_head

_MAX_OPEN_FILES = 200  # cells are written row by row, over all regions of a row


class BlobRef(NamedTuple):
    """The place of a cell's picture and outline in the journal.

    It replaces them in `Cells.pictures` and `Cells.outlines`.
    """

    region_index: int
    row: int


class RegionBlobs:
    """A slide's journal, read without its pictures and outlines.

    They are read one by one, in any order. Files stay open between reads, so use it as a context manager.
    """

    def __init__(self, journal: RegionJournal) -> None:
        self._journal = journal
        self._blobs: dict[int, Blobs] = {}
        # Descriptors by region, the least recently used first.
        self._open: OrderedDict[int, int] = OrderedDict()

    def __enter__(self) -> RegionBlobs:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def results(self) -> Iterator[RegionResult]:
        """Yield the saved regions in the order of their index.

        A `BlobRef` stands for each picture and outline. Raises ValueError or KeyError if a file is damaged.
        """
        for path in self._journal.paths():
            index = int(path.stem)
            with open(path, "rb") as file:
                result, self._blobs[index] = read_region_head(file, partial(BlobRef, index))
            yield result

    def picture(self, ref: BlobRef) -> bytes:
        """Return a JPEG, or b"" if there is none. Raises ValueError if it is damaged."""
        return self._read(ref, 0)

    def outline(self, ref: BlobRef) -> bytes:
        """Return the text of an outline, or b"". Raises ValueError if it is damaged."""
        return self._read(ref, 1)

    def _read(self, ref: BlobRef, kind: int) -> bytes:
        """Read a picture (kind 0) or an outline (kind 1)."""
        index, row = ref
        blobs = self._blobs[index]
        k = kind * (len(blobs.checks) // 2) + row
        start, end = blobs.ends.item(k), blobs.ends.item(k + 1)
        if start == end:
            return b""
        data = os.pread(self._descriptor(index), end - start, start)
        if google_crc32c.value(data) != blobs.checks.item(k):
            raise ValueError(
                f"{self._journal.path(index)}: a picture or outline of its cell {row} is damaged"
            )
        return data

    def _descriptor(self, index: int) -> int:
        """Return the open file of a region. Close the least recently used one if there are many."""
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        if len(self._open) >= _MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[index] = os.open(self._journal.path(index), os.O_RDONLY)
        return self._open[index]
