"""Pictures and outlines left in the journal until they are written: a million of them are 10 GB, their cells without
them 1 GB.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

from ..records import RegionResult
from .journal import RegionJournal
from .region_file import Blobs, read_region_head

_MAX_OPEN_FILES = 200  # cells are written by place, so that those of a row of regions come in turn


class BlobRef(NamedTuple):
    """Where a cell's picture and outline lie: it stands in `Cells.pictures` and `Cells.outlines` in their place."""

    region_index: int
    row: int


class RegionBlobs:
    """A slide's journal, read without the pictures and outlines; those are then read one by one, in any order.

    Use as a context manager: files stay open between reads.
    """

    def __init__(self, journal: RegionJournal):
        self._journal = journal
        self._blobs: dict[int, Blobs] = {}
        self._open: OrderedDict[int, int] = (
            OrderedDict()
        )  # region -> descriptor, the one unused for longest first

    def __enter__(self) -> RegionBlobs:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def results(self) -> Iterator[RegionResult]:
        """The kept regions in the order of their index, with a `BlobRef` for each picture and outline.

        ValueError or KeyError where one is damaged.
        """
        for path in self._journal.paths():
            with open(path, "rb") as file:
                result, self._blobs[int(path.stem)] = read_region_head(
                    file, lambda row, index=int(path.stem): BlobRef(index, row)
                )
            yield result

    def picture(self, ref: BlobRef) -> bytes:
        """A JPEG; b"" where none was kept. ValueError where it is not what was written."""
        return self._read(ref, 0)

    def outline(self, ref: BlobRef) -> bytes:
        """The text of an outline; likewise."""
        return self._read(ref, 1)

    def _read(self, ref: BlobRef, kind: int) -> bytes:
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
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        if len(self._open) >= _MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[index] = os.open(self._journal.path(index), os.O_RDONLY)
        return self._open[index]
