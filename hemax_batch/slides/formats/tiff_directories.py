"""Check a TIFF's chain of directories before any library reads the file.

tifffile notices only loops that close within 100 directories, and libraries trust the counts in
tags. This check refuses loops, endless chains and tags larger than the file. It reads a few bytes
per directory.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from ...errors import UnreadableSlideError

MAX_DIRECTORIES = 4096
MAX_TEXT_BYTES = 16 * 2**20  # of a description or metadata tag; libraries keep several copies
_TYPE_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
    16: 8, 17: 8, 18: 8,
}  # fmt: skip
#: Tags with a value per tile or strip, also those of NDPI.
_TILE_TABLES = {273, 279, 324, 325, 65426, 65432}
_SUB_IFDS = 330
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check_directories(path: Path) -> None:
    """Check the directories of a TIFF.

    Raises
    ------
    UnreadableSlideError
        The chain has a loop or more than 4096 directories, or a tag claims more than the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(16)
        order = "<" if header[:2] == b"II" else ">"
        big = header[2:4] in (b"+\0", b"\0+")
        # NDPI has classic tags, and 64-bit links between directories.
        wide_next = big or path.suffix.lower() == ".ndpi"
        try:
            (offset,) = struct.unpack_from(
                order + ("Q" if wide_next else "I"), header, 8 if big else 4
            )
            _check_chains(file, size, order, big, wide_next, offset)
        except struct.error as error:
            raise UnreadableSlideError(
                "TIFF directories are cut off; copy the file again from the scanner"
            ) from error


def _check_chains(
    file: BinaryIO, size: int, order: str, big: bool, wide_next: bool, offset: int
) -> None:
    """Check the chain of directories from `offset`, and the chains of their SubIFDs.

    `order` is the byte order for `struct`. `big` says that the file is a BigTIFF. `wide_next` says
    that links between directories have 64 bits.
    """
    seen: set[int] = set()
    chains = [offset]
    while chains:
        offset = chains.pop()
        while offset:
            if offset in seen:
                raise UnreadableSlideError(
                    f"TIFF directories form a loop (at byte {offset}); the file is damaged"
                )
            if len(seen) >= MAX_DIRECTORIES:
                raise UnreadableSlideError(
                    f"more than {MAX_DIRECTORIES} TIFF directories; the file is damaged"
                )
            seen.add(offset)
            if offset >= size:
                raise UnreadableSlideError(
                    f"a TIFF directory should be at byte {offset}, the file has {size}: "
                    "truncated; copy it again"
                )
            file.seek(offset)
            (entries,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
            if entries > 4096:
                raise UnreadableSlideError(
                    f"a TIFF directory of {entries} tags (at byte {offset}); the file is damaged"
                )
            table = file.read(entries * (20 if big else 12))
            (offset,) = struct.unpack(
                order + ("Q" if wide_next else "I"), file.read(8 if wide_next else 4)
            )
            for entry in struct.iter_unpack(order + ("HHQ8s" if big else "HHI4s"), table):
                tag, kind, count, _ = entry
                _check_tag(tag, kind, count, size)
                if tag == _SUB_IFDS:
                    chains += _sub_ifds(file, entry, order, big)


def _check_tag(tag: int, kind: int, count: int, size: int) -> None:
    """Raise UnreadableSlideError for a tag that claims more than the file or the limit."""
    length = _TYPE_BYTES.get(kind, 1) * count
    if length > size:
        raise UnreadableSlideError(
            f"TIFF tag {tag} claims {count} values in a file of {size} bytes; "
            "damaged: copy it again"
        )
    if length > MAX_TEXT_BYTES and tag not in _TILE_TABLES:
        raise UnreadableSlideError(
            f"TIFF tag {tag}{' (ImageDescription)' * (tag == 270)} holds {length / 2**20:.0f} MB, "
            f"the limit is {MAX_TEXT_BYTES // 2**20} MB; write the file again without it"
        )


def _sub_ifds(
    file: BinaryIO, entry: tuple[int, int, int, bytes], order: str, big: bool
) -> list[int]:
    """Return the offsets in a SubIFDs tag."""
    _, kind, count, field = entry
    if count > MAX_DIRECTORIES:
        raise UnreadableSlideError(
            f"a TIFF directory of {count} SubIFDs, the limit is {MAX_DIRECTORIES}; "
            "the file is damaged"
        )
    width, code = (8, "Q") if kind in (16, 18) else (4, "I")
    if width * count > len(field):
        file.seek(struct.unpack(order + ("Q" if big else "I"), field)[0])
        field = file.read(width * count)
    return list(struct.unpack(f"{order}{count}{code}", field[: width * count]))
