"""Pictures left in the journal until they are written: a million of them are 10 GB, their cells without them 1 GB.

A region's file is an uncompressed .npz (`journal.to_bytes`), so that a picture in it is a run of bytes at a known place.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records import RegionResult
from .journal import RegionJournal

_LOCAL_HEADER_BYTES = 30  # of a zip member, before its name and extra field (APPNOTE 4.3.7)


class KeptPicture(NamedTuple):
    """Where a cell's picture lies: it stands in `Cells.pictures` in the picture's place."""

    region_index: int
    row: int


class KeptPictures:
    """The pictures of a slide's cells, read one by one from its journal, in any order."""

    def __init__(self, journal: RegionJournal):
        self._journal = journal
        self._ends: dict[int, np.ndarray] = {}  # per region, where in its file each picture ends, int64 [N + 1]

    def set_aside(self, result: RegionResult) -> RegionResult:
        """The same result with its pictures forgotten but for where they lie."""
        index = result.region_index
        lengths = [len(picture) for picture in result.cells.pictures]
        if not any(lengths):
            return result
        self._ends[index] = self._start(index) + np.concatenate([[0], np.cumsum(lengths)])
        kept = tuple(KeptPicture(index, row) for row in range(len(lengths)))
        return replace(result, cells=replace(result.cells, pictures=kept))

    def read(self, picture: KeptPicture | bytes) -> bytes:
        """The picture. ValueError where its file is shorter than it was."""
        if isinstance(picture, bytes):
            return picture
        start, end = self._ends[picture.region_index][picture.row : picture.row + 2].tolist()
        file = os.open(self._file(picture.region_index), os.O_RDONLY)
        try:
            data = os.pread(file, end - start, start)
        finally:
            os.close(file)
        if len(data) != end - start:
            raise ValueError(f"{self._file(picture.region_index)}: ends before the picture of row {picture.row}")
        return data

    def _file(self, index: int) -> Path:
        return self._journal.folder / f"{index:05d}.npz"  # as the journal names it

    def _start(self, index: int) -> int:
        """Where the bytes of a region's pictures begin in its file."""
        path = self._file(index)
        with zipfile.ZipFile(path) as archive, archive.open("pictures_bytes.npy") as member:
            before = archive.getinfo("pictures_bytes.npy").header_offset + _LOCAL_HEADER_BYTES
            np.lib.format.read_magic(member)
            np.lib.format.read_array_header_1_0(member)
            array_header = member.tell()
        with open(path, "rb") as file:
            file.seek(before - 4)
            name_and_extra = sum(np.frombuffer(file.read(4), "<u2").tolist())
        return before + name_and_extra + array_header
