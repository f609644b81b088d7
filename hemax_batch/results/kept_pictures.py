"""Pictures left in the journal until they are written: a million of them are 10 GB, their cells without them 1 GB.

A region's file is safetensors (`journal.to_bytes`), so that a picture in it is a run of bytes at a known place.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records import RegionResult
from .journal import CHECK_BYTES, RegionJournal

_LENGTH_BYTES = 8  # before the header of safetensors: its length


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
        return self._journal.folder / f"{index:05d}.region"  # as the journal names it

    def _start(self, index: int) -> int:
        """Where the bytes of a region's pictures begin in its file."""
        with open(self._file(index), "rb") as file:
            file.seek(CHECK_BYTES)
            header = file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little"))
        return CHECK_BYTES + _LENGTH_BYTES + len(header) + json.loads(header)["pictures_bytes"]["data_offsets"][0]
